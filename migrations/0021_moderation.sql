CREATE TABLE `moderation_log` (
	`id` text PRIMARY KEY NOT NULL,
	`action` text NOT NULL,
	`subject_id` text NOT NULL,
	`note` text NOT NULL,
	`token_id` text NOT NULL,
	`token_name` text NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `reports` (
	`id` text PRIMARY KEY NOT NULL,
	`subject_id` text NOT NULL,
	`reporter_id` text NOT NULL,
	`reason` text NOT NULL,
	`text` text NOT NULL,
	`status` text NOT NULL,
	`created_at` integer NOT NULL,
	`resolved_at` integer,
	FOREIGN KEY (`reporter_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE UNIQUE INDEX `reports_once` ON `reports` (`subject_id`,`reporter_id`);--> statement-breakpoint
CREATE INDEX `reports_reporter` ON `reports` (`reporter_id`);--> statement-breakpoint
CREATE INDEX `reports_status` ON `reports` (`status`,`id`);--> statement-breakpoint
CREATE TABLE `suspensions` (
	`user_id` text PRIMARY KEY NOT NULL,
	`note` text NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `takedowns` (
	`content_id` text PRIMARY KEY NOT NULL,
	`author_id` text NOT NULL,
	`post_id` text NOT NULL,
	`content` text NOT NULL,
	`note` text NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`author_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `takedowns_author` ON `takedowns` (`author_id`);
--> statement-breakpoint
-- What belongs to a content that is taken down stays: the content may be restored. If its takedown goes without it, with the
-- account of its author say, it is removed in steps like that of a deleted content.
DROP TRIGGER posts_removed;
--> statement-breakpoint
DROP TRIGGER comments_removed;
--> statement-breakpoint
CREATE TRIGGER posts_removed AFTER DELETE ON posts WHEN (OLD.likes_count > 0 OR OLD.comments_count > 0)
  AND NOT EXISTS (SELECT 1 FROM takedowns WHERE content_id = OLD.id) BEGIN
  INSERT INTO removals (content_id, due_at)
  SELECT OLD.id, CAST(unixepoch('subsec') * 1000 AS INTEGER) + 60000
  WHERE NOT EXISTS (SELECT 1 FROM removals WHERE content_id = OLD.id);
END;
--> statement-breakpoint
CREATE TRIGGER comments_removed AFTER DELETE ON comments WHEN OLD.likes_count > 0
  AND NOT EXISTS (SELECT 1 FROM takedowns WHERE content_id = OLD.id) BEGIN
  INSERT INTO removals (content_id, due_at)
  SELECT OLD.id, CAST(unixepoch('subsec') * 1000 AS INTEGER) + 60000
  WHERE NOT EXISTS (SELECT 1 FROM removals WHERE content_id = OLD.id);
END;
--> statement-breakpoint
CREATE TRIGGER takedowns_removed AFTER DELETE ON takedowns
WHEN NOT EXISTS (SELECT 1 FROM posts WHERE id = OLD.content_id)
  AND NOT EXISTS (SELECT 1 FROM comments WHERE id = OLD.content_id) BEGIN
  INSERT INTO removals (content_id, due_at)
  SELECT OLD.content_id, CAST(unixepoch('subsec') * 1000 AS INTEGER) + 60000
  WHERE NOT EXISTS (SELECT 1 FROM removals WHERE content_id = OLD.content_id);
END;
