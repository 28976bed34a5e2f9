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
CREATE INDEX `mentions_post` ON `mentions` (`post_id`);--> statement-breakpoint
CREATE TABLE `relations` (
	`user_id` text NOT NULL,
	`kind` text NOT NULL,
	`other_id` text NOT NULL,
	`id` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`user_id`, `kind`, `other_id`),
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`other_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `relations_list` ON `relations` (`user_id`,`kind`,`id`);--> statement-breakpoint
CREATE INDEX `relations_other` ON `relations` (`other_id`,`kind`,`user_id`);--> statement-breakpoint
ALTER TABLE `comments` ADD `parent_id` text;--> statement-breakpoint
ALTER TABLE `comments` ADD `version` integer DEFAULT 1 NOT NULL;--> statement-breakpoint
ALTER TABLE `comments` ADD `updated_at` integer;--> statement-breakpoint
ALTER TABLE `comments` ADD `deleted_at` integer;--> statement-breakpoint
ALTER TABLE `comments` ADD `replies_count` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE INDEX `comments_top` ON `comments` (`post_id`,`id`) WHERE parent_id IS NULL;--> statement-breakpoint
CREATE INDEX `comments_replies` ON `comments` (`parent_id`,`id`) WHERE parent_id IS NOT NULL;--> statement-breakpoint
ALTER TABLE `users` ADD `relations_version` integer DEFAULT 0 NOT NULL;
--> statement-breakpoint
-- A block changes what both users see, a mute what one of them sees.
CREATE TRIGGER relations_insert AFTER INSERT ON relations BEGIN
  UPDATE users SET relations_version = relations_version + 1 WHERE id = NEW.user_id;
  UPDATE users SET relations_version = relations_version + 1 WHERE id = NEW.other_id AND NEW.kind = 'block';
END;
--> statement-breakpoint
CREATE TRIGGER relations_delete AFTER DELETE ON relations BEGIN
  UPDATE users SET relations_version = relations_version + 1 WHERE id = OLD.user_id;
  UPDATE users SET relations_version = relations_version + 1 WHERE id = OLD.other_id AND OLD.kind = 'block';
END;
--> statement-breakpoint
DROP TRIGGER comments_insert;
--> statement-breakpoint
DROP TRIGGER comments_delete;
--> statement-breakpoint
-- A deleted comment that keeps its place for its replies does not count on its post, and counts as a reply.
-- The score (src/db/score.ts) as before.
CREATE TRIGGER comments_insert AFTER INSERT ON comments BEGIN
  UPDATE posts SET comments_count = comments_count + 1, counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * (comments_count + 1) + likes_count + 0.1 * views_count >= 2
      THEN log2(1 + 3 * (comments_count + 1) + likes_count + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = NEW.post_id AND NEW.deleted_at IS NULL;
  UPDATE comments SET replies_count = replies_count + 1 WHERE id = NEW.parent_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_delete AFTER DELETE ON comments BEGIN
  UPDATE posts SET comments_count = comments_count - 1, counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * (comments_count - 1) + likes_count + 0.1 * views_count >= 2
      THEN log2(1 + 3 * (comments_count - 1) + likes_count + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = OLD.post_id AND OLD.deleted_at IS NULL;
  UPDATE comments SET replies_count = replies_count - 1 WHERE id = OLD.parent_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_emptied AFTER UPDATE OF deleted_at ON comments
WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL BEGIN
  UPDATE posts SET comments_count = comments_count - 1, counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * (comments_count - 1) + likes_count + 0.1 * views_count >= 2
      THEN log2(1 + 3 * (comments_count - 1) + likes_count + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = NEW.post_id;
  DELETE FROM notifications WHERE kind IN ('comment', 'reply', 'like') AND content_id = NEW.id;
END;
--> statement-breakpoint
-- An account that goes takes its comments along, and not the replies of others: these reply to what is above.
CREATE TRIGGER comments_orphaned AFTER DELETE ON comments
WHEN OLD.replies_count > 0 AND EXISTS (SELECT 1 FROM posts WHERE id = OLD.post_id) BEGIN
  UPDATE comments SET replies_count = replies_count + OLD.replies_count WHERE id = OLD.parent_id;
  UPDATE comments SET parent_id = OLD.parent_id WHERE parent_id = OLD.id;
END;
--> statement-breakpoint
DROP TRIGGER comments_unnoted;
--> statement-breakpoint
CREATE TRIGGER comments_unnoted AFTER DELETE ON comments BEGIN
  DELETE FROM notifications WHERE kind IN ('comment', 'reply', 'like') AND content_id = OLD.id;
END;
