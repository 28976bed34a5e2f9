CREATE TABLE `mentions` (
	`content_id` text NOT NULL,
	`user_id` text NOT NULL,
	`id` text NOT NULL,
	`post_id` text NOT NULL,
	`created_at` integer NOT NULL,
	`is_named` integer NOT NULL,
	PRIMARY KEY(`content_id`, `user_id`),
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `mentions_user` ON `mentions` (`user_id`,`id`);--> statement-breakpoint
CREATE INDEX `mentions_post` ON `mentions` (`post_id`);