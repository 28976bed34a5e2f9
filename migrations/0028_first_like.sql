DROP TRIGGER post_likes_insert;
--> statement-breakpoint
-- As before, but the first like of a post leaves the score to the next change: it already writes a notification, which the
-- next ones only move. Two statements, because SQLite writes the index entry of each column that a statement sets.
CREATE TRIGGER post_likes_insert AFTER INSERT ON post_likes BEGIN
  UPDATE posts SET likes_count = likes_count + NEW.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1,
    score = CASE WHEN 3 * comments_count + likes_count + NEW.is_liked + 0.1 * views_count >= 2
      THEN log2(1 + 3 * comments_count + likes_count + NEW.is_liked + 0.1 * views_count) + created_at * 1.0 / 28800000 END
  WHERE id = NEW.post_id AND likes_count > 0;
  UPDATE posts SET likes_count = NEW.is_liked,
    likes_changed_at = max(likes_changed_at, NEW.changed_at), counts_revision = counts_revision + 1
  WHERE id = NEW.post_id AND likes_count = 0;
END;
