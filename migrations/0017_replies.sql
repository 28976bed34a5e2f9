ALTER TABLE `comments` ADD `parent_id` text;--> statement-breakpoint
ALTER TABLE `comments` ADD `version` integer DEFAULT 1 NOT NULL;--> statement-breakpoint
ALTER TABLE `comments` ADD `updated_at` integer;--> statement-breakpoint
ALTER TABLE `comments` ADD `deleted_at` integer;--> statement-breakpoint
ALTER TABLE `comments` ADD `replies_count` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE INDEX `comments_top` ON `comments` (`post_id`,`id`) WHERE parent_id IS NULL;--> statement-breakpoint
CREATE INDEX `comments_replies` ON `comments` (`parent_id`,`id`) WHERE parent_id IS NOT NULL;--> statement-breakpoint
DROP TRIGGER comments_insert;
--> statement-breakpoint
DROP TRIGGER comments_delete;
--> statement-breakpoint
-- A deleted comment that keeps its place for its replies does not count on its post, and counts as a reply.
CREATE TRIGGER comments_insert AFTER INSERT ON comments BEGIN
  UPDATE posts SET comments_count = comments_count + 1, counts_revision = counts_revision + 1
  WHERE id = NEW.post_id AND NEW.deleted_at IS NULL;
  UPDATE comments SET replies_count = replies_count + 1 WHERE id = NEW.parent_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_delete AFTER DELETE ON comments BEGIN
  UPDATE posts SET comments_count = comments_count - 1, counts_revision = counts_revision + 1
  WHERE id = OLD.post_id AND OLD.deleted_at IS NULL;
  UPDATE comments SET replies_count = replies_count - 1 WHERE id = OLD.parent_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_emptied AFTER UPDATE OF deleted_at ON comments
WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL BEGIN
  UPDATE posts SET comments_count = comments_count - 1, counts_revision = counts_revision + 1 WHERE id = NEW.post_id;
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
