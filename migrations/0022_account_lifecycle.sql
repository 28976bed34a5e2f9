CREATE TABLE `credential_tokens` (
	`hash` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`purpose` text NOT NULL,
	`email` text NOT NULL,
	`expires_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `credential_tokens_user` ON `credential_tokens` (`user_id`);--> statement-breakpoint
CREATE INDEX `credential_tokens_expiry` ON `credential_tokens` (`expires_at`);--> statement-breakpoint
ALTER TABLE `removals` ADD `progress` text;--> statement-breakpoint
ALTER TABLE `users` ADD `pending_email` text;--> statement-breakpoint
CREATE INDEX `users_pending_email` ON `users` (`pending_email`) WHERE pending_email IS NOT NULL;
--> statement-breakpoint
-- The words of a post or user leave the search index with its row, whoever deletes it: a step of a removal knows no ids of
-- rows that an earlier step deleted.
CREATE TRIGGER posts_unindexed AFTER DELETE ON posts BEGIN
  DELETE FROM post_words WHERE rowid = (SELECT place FROM search_documents WHERE id = OLD.id);
  DELETE FROM search_documents WHERE id = OLD.id;
END;
--> statement-breakpoint
CREATE TRIGGER users_unindexed AFTER DELETE ON users BEGIN
  DELETE FROM user_words WHERE rowid = (SELECT place FROM search_documents WHERE id = OLD.id);
  DELETE FROM search_documents WHERE id = OLD.id;
END;
