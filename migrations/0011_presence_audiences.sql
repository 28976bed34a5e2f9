ALTER TABLE `event_sequences` ADD `public_sequence` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `events` ADD `public_sequence` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `users` ADD `presence_shown_to` text DEFAULT 'nobody' NOT NULL;--> statement-breakpoint
ALTER TABLE `users` ADD `presence_shown_at` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `users` ADD `presence_changed_at` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `users` ADD `presence_sync_at` integer;--> statement-breakpoint
CREATE INDEX `users_presence_sync` ON `users` (`presence_sync_at`) WHERE presence_sync_at IS NOT NULL;--> statement-breakpoint
UPDATE event_sequences SET public_sequence = sequence;
--> statement-breakpoint
DROP TRIGGER events_insert;
--> statement-breakpoint
-- Two sequences per subject, neither with gaps: strangers see `everyone` and `others`, the rest see all but `others`.
CREATE TRIGGER events_insert AFTER INSERT ON events BEGIN
  INSERT INTO event_sequences (channel, subject, sequence, public_sequence)
  SELECT NEW.channel, NEW.subject, 0, 0
  WHERE NOT EXISTS (SELECT 1 FROM event_sequences WHERE channel = NEW.channel AND subject = NEW.subject);
  UPDATE event_sequences SET
    sequence = sequence + (NEW.audience <> '"others"'),
    public_sequence = public_sequence + (NEW.audience IN ('"everyone"', '"others"'))
  WHERE channel = NEW.channel AND subject = NEW.subject;
  UPDATE events SET (sequence, public_sequence) = (
    SELECT sequence, public_sequence * (NEW.audience IN ('"everyone"', '"others"')) FROM event_sequences
    WHERE channel = NEW.channel AND subject = NEW.subject
  ) WHERE id = NEW.id;
END;
