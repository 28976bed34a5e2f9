ALTER TABLE `event_sequences` ADD `changed_at` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE INDEX `comment_likes_removed` ON `comment_likes` (`changed_at`) WHERE NOT is_liked;--> statement-breakpoint
CREATE INDEX `post_likes_removed` ON `post_likes` (`changed_at`) WHERE NOT is_liked;--> statement-breakpoint
UPDATE event_sequences SET changed_at = latest.at
FROM (SELECT channel, subject, max(created_at) AS at FROM events GROUP BY channel, subject) AS latest
WHERE latest.channel = event_sequences.channel AND latest.subject = event_sequences.subject;
--> statement-breakpoint
-- No event is left that could be purged with them.
DELETE FROM event_sequences WHERE changed_at = 0;
--> statement-breakpoint
DROP TRIGGER events_insert;
--> statement-breakpoint
-- As before, and with the time of the last event. It has no index: it costs no row.
CREATE TRIGGER events_insert AFTER INSERT ON events BEGIN
  INSERT INTO event_sequences (channel, subject, sequence, public_sequence)
  SELECT NEW.channel, NEW.subject, 0, 0
  WHERE NOT EXISTS (SELECT 1 FROM event_sequences WHERE channel = NEW.channel AND subject = NEW.subject);
  UPDATE event_sequences SET
    sequence = sequence + (NEW.audience <> '"others"'),
    public_sequence = public_sequence + (NEW.audience IN ('"everyone"', '"others"')),
    changed_at = max(changed_at, NEW.created_at)
  WHERE channel = NEW.channel AND subject = NEW.subject;
  UPDATE events SET (sequence, public_sequence) = (
    SELECT sequence, public_sequence * (NEW.audience IN ('"everyone"', '"others"')) FROM event_sequences
    WHERE channel = NEW.channel AND subject = NEW.subject
  ) WHERE id = NEW.id;
END;
