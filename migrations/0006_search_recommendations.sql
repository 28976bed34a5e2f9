CREATE TABLE `post_scores` (
	`post_id` text PRIMARY KEY NOT NULL,
	`score` real NOT NULL,
	FOREIGN KEY (`post_id`) REFERENCES `posts`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE INDEX `post_scores_best` ON `post_scores` (`score`);--> statement-breakpoint
CREATE TABLE `search_documents` (
	`place` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`id` text NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `search_documents_id` ON `search_documents` (`id`);
--> statement-breakpoint
CREATE VIRTUAL TABLE post_words USING fts5(
  words, content = '', contentless_delete = 1, tokenize = 'ascii', prefix = '2 3'
);
--> statement-breakpoint
CREATE VIRTUAL TABLE user_words USING fts5(
  username, display_name, bio, content = '', contentless_delete = 1, tokenize = 'ascii', prefix = '2 3'
);
