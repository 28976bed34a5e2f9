CREATE TABLE `service_tokens` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`scopes` text NOT NULL,
	`hash` text NOT NULL,
	`previous` text NOT NULL,
	`created_at` integer NOT NULL,
	`rotated_at` integer,
	`last_used_at` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `service_tokens_name` ON `service_tokens` (`name`);