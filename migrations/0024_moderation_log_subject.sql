DROP INDEX `webhooks_hinted`;--> statement-breakpoint
CREATE INDEX `moderation_log_subject` ON `moderation_log` (`subject_id`);