DROP INDEX `comments_liked`;--> statement-breakpoint
DROP INDEX `notifications_age`;--> statement-breakpoint
DROP INDEX `posts_liked`;--> statement-breakpoint
ALTER TABLE `posts` ADD `score` real;--> statement-breakpoint
CREATE INDEX `posts_best` ON `posts` (`score`) WHERE score IS NOT NULL;
--> statement-breakpoint
-- The best of the former scores. Other posts get theirs when their counts change, or from
-- `POST /v1/listeners/recommendations/rebuild`.
UPDATE posts SET score = best.score
FROM (SELECT post_id, score FROM post_scores ORDER BY score DESC LIMIT 10000) AS best
WHERE best.post_id = posts.id AND 3 * comments_count + likes_count + 0.1 * views_count >= 2;
--> statement-breakpoint
DROP TRIGGER post_likes_insert;
--> statement-breakpoint
DROP TRIGGER post_likes_update;
--> statement-breakpoint
DROP TRIGGER post_likes_delete;
--> statement-breakpoint
DROP TRIGGER comments_insert;
--> statement-breakpoint
DROP TRIGGER comments_delete;
--> statement-breakpoint
DROP TRIGGER posts_unsettled;
--> statement-breakpoint
DROP TRIGGER comments_unsettled;
--> statement-breakpoint
-- As before, and each sets the score (src/db/score.ts) in the row that it writes anyway.
CREATE TRIGGER post_likes_insert AFTER INSERT ON post_likes BEGIN
  UPDATE posts SET likes_count = likes_count + NEW.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * comments_count + likes_count + NEW.is_liked + 0.1 * views_count >= 2
      THEN log2(1 + 3 * comments_count + likes_count + NEW.is_liked + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = NEW.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER post_likes_update AFTER UPDATE ON post_likes BEGIN
  UPDATE posts SET likes_count = likes_count + NEW.is_liked - OLD.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * comments_count + likes_count + NEW.is_liked - OLD.is_liked + 0.1 * views_count >= 2
      THEN log2(1 + 3 * comments_count + likes_count + NEW.is_liked - OLD.is_liked + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = NEW.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER post_likes_delete AFTER DELETE ON post_likes WHEN OLD.is_liked BEGIN
  UPDATE posts SET likes_count = likes_count - 1, counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * comments_count + likes_count - 1 + 0.1 * views_count >= 2
      THEN log2(1 + 3 * comments_count + likes_count - 1 + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = OLD.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_insert AFTER INSERT ON comments BEGIN
  UPDATE posts SET comments_count = comments_count + 1, counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * (comments_count + 1) + likes_count + 0.1 * views_count >= 2
      THEN log2(1 + 3 * (comments_count + 1) + likes_count + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = NEW.post_id;
END;
--> statement-breakpoint
CREATE TRIGGER comments_delete AFTER DELETE ON comments BEGIN
  UPDATE posts SET comments_count = comments_count - 1, counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * (comments_count - 1) + likes_count + 0.1 * views_count >= 2
      THEN log2(1 + 3 * (comments_count - 1) + likes_count + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = OLD.post_id;
END;
--> statement-breakpoint
-- A like that is newer than all others needs no record: the queue repeats its message until Redis is settled.
CREATE TRIGGER posts_unsettled AFTER UPDATE OF likes_count, comments_count, counts_revision ON posts
WHEN NEW.likes_changed_at = OLD.likes_changed_at BEGIN
  INSERT INTO unsettled_counts (content_id)
  SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM unsettled_counts WHERE content_id = NEW.id);
END;
--> statement-breakpoint
CREATE TRIGGER comments_unsettled AFTER UPDATE OF likes_count, counts_revision ON comments
WHEN NEW.likes_changed_at = OLD.likes_changed_at BEGIN
  INSERT INTO unsettled_counts (content_id)
  SELECT NEW.id WHERE NOT EXISTS (SELECT 1 FROM unsettled_counts WHERE content_id = NEW.id);
END;
