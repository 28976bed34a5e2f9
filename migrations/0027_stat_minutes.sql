CREATE TABLE `stat_minutes` (
	`minute` integer PRIMARY KEY NOT NULL,
	`since` integer NOT NULL,
	`online` integer,
	`totals` text NOT NULL,
	`routes` text NOT NULL,
	`caches` text NOT NULL
);
