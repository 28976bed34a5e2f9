DROP INDEX `comment_likes_latest`;--> statement-breakpoint
ALTER TABLE `comment_likes` ADD `since` integer;--> statement-breakpoint
CREATE INDEX `comment_likes_latest` ON `comment_likes` (`comment_id`,coalesce(since, changed_at),`user_id`) WHERE is_liked;--> statement-breakpoint
DROP INDEX `post_likes_latest`;--> statement-breakpoint
ALTER TABLE `post_likes` ADD `since` integer;--> statement-breakpoint
CREATE INDEX `post_likes_latest` ON `post_likes` (`post_id`,coalesce(since, changed_at),`user_id`) WHERE is_liked;--> statement-breakpoint
ALTER TABLE `events` ADD `missed_at` integer;--> statement-breakpoint
CREATE INDEX `events_missed` ON `events` (`missed_at`) WHERE missed_at IS NOT NULL;