CREATE INDEX `comments_liked` ON `comments` (`likes_changed_at`);--> statement-breakpoint
CREATE INDEX `posts_liked` ON `posts` (`likes_changed_at`);