CREATE TABLE `revocations` (
	`subject_id` text PRIMARY KEY NOT NULL,
	`epoch` integer,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `revocations_created` ON `revocations` (`created_at`);--> statement-breakpoint
CREATE TABLE `sign_in_sources` (
	`user_id` text NOT NULL,
	`source` text NOT NULL,
	`seen_at` integer NOT NULL,
	PRIMARY KEY(`user_id`, `source`),
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `sign_in_sources_seen` ON `sign_in_sources` (`seen_at`);