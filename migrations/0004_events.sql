CREATE TABLE `counter_changes` (
	`content_id` text NOT NULL,
	`counter_type` text NOT NULL,
	`changed_at` integer NOT NULL,
	PRIMARY KEY(`content_id`, `counter_type`)
);
--> statement-breakpoint
CREATE INDEX `counter_changes_age` ON `counter_changes` (`changed_at`);--> statement-breakpoint
CREATE TABLE `event_sequences` (
	`channel` text NOT NULL,
	`subject` text NOT NULL,
	`sequence` integer NOT NULL,
	PRIMARY KEY(`channel`, `subject`)
);
--> statement-breakpoint
CREATE TABLE `events` (
	`id` text PRIMARY KEY NOT NULL,
	`channel` text NOT NULL,
	`type` text NOT NULL,
	`subject` text NOT NULL,
	`sequence` integer DEFAULT 0 NOT NULL,
	`data` text NOT NULL,
	`audience` text NOT NULL,
	`created_at` integer NOT NULL,
	`due_at` integer,
	`attempts` integer DEFAULT 0 NOT NULL,
	`traceparent` text
);
--> statement-breakpoint
CREATE INDEX `events_due` ON `events` (`due_at`) WHERE due_at IS NOT NULL;--> statement-breakpoint
CREATE INDEX `events_age` ON `events` (`created_at`);--> statement-breakpoint
CREATE TRIGGER events_insert AFTER INSERT ON events BEGIN
  INSERT INTO event_sequences (channel, subject, sequence)
  SELECT NEW.channel, NEW.subject, 0
  WHERE NOT EXISTS (SELECT 1 FROM event_sequences WHERE channel = NEW.channel AND subject = NEW.subject);
  UPDATE event_sequences SET sequence = sequence + 1 WHERE channel = NEW.channel AND subject = NEW.subject;
  UPDATE events SET sequence = (
    SELECT sequence FROM event_sequences WHERE channel = NEW.channel AND subject = NEW.subject
  ) WHERE id = NEW.id;
END;
--> statement-breakpoint
CREATE TRIGGER posts_likes_change AFTER UPDATE OF likes_count ON posts WHEN NEW.likes_count <> OLD.likes_count BEGIN
  INSERT INTO counter_changes (content_id, counter_type, changed_at)
  SELECT NEW.id, 'likes', CAST(unixepoch('subsec') * 1000 AS INTEGER)
  WHERE NOT EXISTS (SELECT 1 FROM counter_changes WHERE content_id = NEW.id AND counter_type = 'likes');
END;
--> statement-breakpoint
CREATE TRIGGER posts_comments_change AFTER UPDATE OF comments_count ON posts
WHEN NEW.comments_count <> OLD.comments_count BEGIN
  INSERT INTO counter_changes (content_id, counter_type, changed_at)
  SELECT NEW.id, 'comments', CAST(unixepoch('subsec') * 1000 AS INTEGER)
  WHERE NOT EXISTS (SELECT 1 FROM counter_changes WHERE content_id = NEW.id AND counter_type = 'comments');
END;
--> statement-breakpoint
CREATE TRIGGER posts_views_change AFTER UPDATE OF views_count ON posts WHEN NEW.views_count <> OLD.views_count BEGIN
  INSERT INTO counter_changes (content_id, counter_type, changed_at)
  SELECT NEW.id, 'views', CAST(unixepoch('subsec') * 1000 AS INTEGER)
  WHERE NOT EXISTS (SELECT 1 FROM counter_changes WHERE content_id = NEW.id AND counter_type = 'views');
END;
--> statement-breakpoint
CREATE TRIGGER comments_likes_change AFTER UPDATE OF likes_count ON comments
WHEN NEW.likes_count <> OLD.likes_count BEGIN
  INSERT INTO counter_changes (content_id, counter_type, changed_at)
  SELECT NEW.id, 'likes', CAST(unixepoch('subsec') * 1000 AS INTEGER)
  WHERE NOT EXISTS (SELECT 1 FROM counter_changes WHERE content_id = NEW.id AND counter_type = 'likes');
END;
