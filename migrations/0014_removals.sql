CREATE TABLE `removals` (
	`content_id` text PRIMARY KEY NOT NULL,
	`due_at` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `removals_due` ON `removals` (`due_at`);
--> statement-breakpoint
-- The likes and comments of a deleted post no longer go in one statement: the three tables lose their reference to what
-- they belong to. SQLite drops a reference only with its table. Children first: dropping a table deletes what refers to
-- it. The triggers of a dropped table go too, and a rename checks those of all others.
DROP TRIGGER comments_insert;
--> statement-breakpoint
DROP TRIGGER comments_delete;
--> statement-breakpoint
DROP TRIGGER comments_likes_change;
--> statement-breakpoint
DROP TRIGGER comments_unsettled;
--> statement-breakpoint
DROP TRIGGER comments_gone;
--> statement-breakpoint
DROP TRIGGER comment_likes_insert;
--> statement-breakpoint
DROP TRIGGER comment_likes_update;
--> statement-breakpoint
DROP TRIGGER comment_likes_delete;
--> statement-breakpoint
DROP TRIGGER post_likes_insert;
--> statement-breakpoint
DROP TRIGGER post_likes_update;
--> statement-breakpoint
DROP TRIGGER post_likes_delete;
--> statement-breakpoint
CREATE TABLE new_comment_likes (
	`comment_id` text NOT NULL,
	`user_id` text NOT NULL,
	`is_liked` integer NOT NULL,
	`changed_at` integer NOT NULL,
	`since` integer,
	PRIMARY KEY(`comment_id`, `user_id`),
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
INSERT INTO new_comment_likes SELECT comment_id, user_id, is_liked, changed_at, since FROM comment_likes ORDER BY rowid;
--> statement-breakpoint
DROP TABLE comment_likes;
--> statement-breakpoint
ALTER TABLE new_comment_likes RENAME TO comment_likes;
--> statement-breakpoint
CREATE INDEX `comment_likes_user` ON `comment_likes` (`user_id`,`comment_id`);
--> statement-breakpoint
CREATE INDEX `comment_likes_removed` ON `comment_likes` (`changed_at`) WHERE NOT is_liked;
--> statement-breakpoint
CREATE INDEX `comment_likes_latest` ON `comment_likes` (`comment_id`,coalesce(since, changed_at),`user_id`) WHERE is_liked;
--> statement-breakpoint
CREATE TABLE new_comments (
	`id` text PRIMARY KEY NOT NULL,
	`post_id` text NOT NULL,
	`author_id` text NOT NULL,
	`text` text NOT NULL,
	`likes_count` integer DEFAULT 0 NOT NULL,
	`likes_changed_at` integer DEFAULT 0 NOT NULL,
	`counts_revision` integer DEFAULT 0 NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`author_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
INSERT INTO new_comments
SELECT id, post_id, author_id, text, likes_count, likes_changed_at, counts_revision, created_at FROM comments ORDER BY rowid;
--> statement-breakpoint
DROP TABLE comments;
--> statement-breakpoint
ALTER TABLE new_comments RENAME TO comments;
--> statement-breakpoint
CREATE INDEX `comments_post` ON `comments` (`post_id`,`id`);
--> statement-breakpoint
CREATE INDEX `comments_author` ON `comments` (`author_id`);
--> statement-breakpoint
CREATE INDEX `comments_liked` ON `comments` (`likes_changed_at`);
--> statement-breakpoint
CREATE TABLE new_post_likes (
	`post_id` text NOT NULL,
	`user_id` text NOT NULL,
	`is_liked` integer NOT NULL,
	`changed_at` integer NOT NULL,
	`since` integer,
	PRIMARY KEY(`post_id`, `user_id`),
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
INSERT INTO new_post_likes SELECT post_id, user_id, is_liked, changed_at, since FROM post_likes ORDER BY rowid;
--> statement-breakpoint
DROP TABLE post_likes;
--> statement-breakpoint
ALTER TABLE new_post_likes RENAME TO post_likes;
--> statement-breakpoint
CREATE INDEX `post_likes_user` ON `post_likes` (`user_id`,`post_id`);
--> statement-breakpoint
CREATE INDEX `post_likes_removed` ON `post_likes` (`changed_at`) WHERE NOT is_liked;
--> statement-breakpoint
CREATE INDEX `post_likes_latest` ON `post_likes` (`post_id`,coalesce(since, changed_at),`user_id`) WHERE is_liked;
--> statement-breakpoint
CREATE TRIGGER post_likes_insert AFTER INSERT ON post_likes BEGIN
  UPDATE posts SET likes_count = likes_count + NEW.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1
  WHERE id = NEW.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER post_likes_update AFTER UPDATE ON post_likes BEGIN
  UPDATE posts SET likes_count = likes_count + NEW.is_liked - OLD.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1
  WHERE id = NEW.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER post_likes_delete AFTER DELETE ON post_likes WHEN OLD.is_liked BEGIN
  UPDATE posts SET likes_count = likes_count - 1, counts_revision = counts_revision + 1 WHERE id = OLD.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER comment_likes_insert AFTER INSERT ON comment_likes BEGIN
  UPDATE comments SET likes_count = likes_count + NEW.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1
  WHERE id = NEW.comment_id;
END;
--> statement-breakpoint
CREATE TRIGGER comment_likes_update AFTER UPDATE ON comment_likes BEGIN
  UPDATE comments SET likes_count = likes_count + NEW.is_liked - OLD.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1
  WHERE id = NEW.comment_id;
END;
--> statement-breakpoint
CREATE TRIGGER comment_likes_delete AFTER DELETE ON comment_likes WHEN OLD.is_liked BEGIN
  UPDATE comments SET likes_count = likes_count - 1, counts_revision = counts_revision + 1 WHERE id = OLD.comment_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_insert AFTER INSERT ON comments BEGIN
  UPDATE posts SET comments_count = comments_count + 1, counts_revision = counts_revision + 1 WHERE id = NEW.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_delete AFTER DELETE ON comments BEGIN
  UPDATE posts SET comments_count = comments_count - 1, counts_revision = counts_revision + 1 WHERE id = OLD.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_likes_change AFTER UPDATE OF likes_count ON comments
WHEN NEW.likes_count <> OLD.likes_count BEGIN
  INSERT INTO counter_changes (content_id, counter_type, changed_at)
  SELECT NEW.id, 'likes', CAST(unixepoch('subsec') * 1000 AS INTEGER)
  WHERE NOT EXISTS (SELECT 1 FROM counter_changes WHERE content_id = NEW.id AND counter_type = 'likes');
END;
--> statement-breakpoint
CREATE TRIGGER comments_unsettled AFTER UPDATE OF likes_count, counts_revision ON comments BEGIN
  INSERT INTO unsettled_counts (content_id)
  SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM unsettled_counts WHERE content_id = NEW.id);
END;
--> statement-breakpoint
CREATE TRIGGER comments_gone AFTER DELETE ON comments BEGIN
  INSERT INTO unsettled_counts (content_id)
  SELECT OLD.id WHERE NOT EXISTS (SELECT 1 FROM unsettled_counts WHERE content_id = OLD.id);
END;
--> statement-breakpoint
-- What a deleted content leaves behind is recorded in the same transaction, whoever deletes it. The queue begins soon; the
-- cron continues what is due.
CREATE TRIGGER posts_removed AFTER DELETE ON posts WHEN OLD.likes_count > 0 OR OLD.comments_count > 0 BEGIN
  INSERT INTO removals (content_id, due_at)
  SELECT OLD.id, CAST(unixepoch('subsec') * 1000 AS INTEGER) + 60000
  WHERE NOT EXISTS (SELECT 1 FROM removals WHERE content_id = OLD.id);
END;
--> statement-breakpoint
CREATE TRIGGER comments_removed AFTER DELETE ON comments WHEN OLD.likes_count > 0 BEGIN
  INSERT INTO removals (content_id, due_at)
  SELECT OLD.id, CAST(unixepoch('subsec') * 1000 AS INTEGER) + 60000
  WHERE NOT EXISTS (SELECT 1 FROM removals WHERE content_id = OLD.id);
END;
--> statement-breakpoint
-- The notifications of a content, at most two, go with it.
CREATE TRIGGER posts_unnoted AFTER DELETE ON posts BEGIN
  DELETE FROM notifications WHERE kind = 'like' AND content_id = OLD.id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_unnoted AFTER DELETE ON comments BEGIN
  DELETE FROM notifications WHERE kind IN ('comment', 'like') AND content_id = OLD.id;
END;
