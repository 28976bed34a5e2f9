-- Every count is the number of its rows at any moment, whoever writes them and in whatever order.
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
CREATE TRIGGER posts_insert AFTER INSERT ON posts BEGIN
  UPDATE users SET posts_count = posts_count + 1, revision = revision + 1 WHERE id = NEW.author_id;
END;
--> statement-breakpoint
CREATE TRIGGER posts_delete AFTER DELETE ON posts BEGIN
  UPDATE users SET posts_count = posts_count - 1, revision = revision + 1 WHERE id = OLD.author_id;
END;
--> statement-breakpoint
CREATE TRIGGER follows_insert AFTER INSERT ON follows BEGIN
  UPDATE users SET followers_count = followers_count + 1, revision = revision + 1 WHERE id = NEW.followed_id;
  UPDATE users SET followings_count = followings_count + 1, revision = revision + 1 WHERE id = NEW.follower_id;
END;
--> statement-breakpoint
CREATE TRIGGER follows_delete AFTER DELETE ON follows BEGIN
  UPDATE users SET followers_count = followers_count - 1, revision = revision + 1 WHERE id = OLD.followed_id;
  UPDATE users SET followings_count = followings_count - 1, revision = revision + 1 WHERE id = OLD.follower_id;
END;
