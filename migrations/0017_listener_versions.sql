CREATE TABLE `listener_versions` (
	`listener` text PRIMARY KEY NOT NULL,
	`version` integer NOT NULL
);
--> statement-breakpoint
-- A new database has no words to make again.
INSERT INTO `listener_versions` SELECT 'search', 1 WHERE NOT EXISTS (SELECT 1 FROM `users`);
