CREATE TABLE `unsettled_counts` (
	`content_id` text PRIMARY KEY NOT NULL
);
--> statement-breakpoint
CREATE TRIGGER posts_unsettled AFTER UPDATE OF likes_count, comments_count, counts_revision ON posts BEGIN
  INSERT INTO unsettled_counts (content_id)
  SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM unsettled_counts WHERE content_id = NEW.id);
END;
--> statement-breakpoint
CREATE TRIGGER posts_gone AFTER DELETE ON posts BEGIN
  INSERT INTO unsettled_counts (content_id)
  SELECT OLD.id WHERE NOT EXISTS (SELECT 1 FROM unsettled_counts WHERE content_id = OLD.id);
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
