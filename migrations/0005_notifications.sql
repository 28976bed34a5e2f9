CREATE TABLE `notification_reads` (
	`user_id` text PRIMARY KEY NOT NULL,
	`read_until` text NOT NULL,
	`read_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `notifications` (
	`kind` text NOT NULL,
	`content_id` text NOT NULL,
	`user_id` text NOT NULL,
	`post_id` text NOT NULL,
	`id` text NOT NULL,
	`actor_ids` text NOT NULL,
	`actors_count` integer NOT NULL,
	`created_at` integer NOT NULL,
	`noted_at` integer NOT NULL,
	PRIMARY KEY(`kind`, `content_id`),
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `notifications_user` ON `notifications` (`user_id`,`id`);--> statement-breakpoint
CREATE INDEX `notifications_age` ON `notifications` (`id`);--> statement-breakpoint
CREATE INDEX `comment_likes_latest` ON `comment_likes` (`comment_id`,`changed_at`,`user_id`) WHERE is_liked;--> statement-breakpoint
CREATE INDEX `post_likes_latest` ON `post_likes` (`post_id`,`changed_at`,`user_id`) WHERE is_liked;