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
ALTER TABLE `users` ADD `relations_version` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
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
