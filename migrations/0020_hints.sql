CREATE INDEX `webhooks_hinted` ON `webhooks` (`id`) WHERE (instr(channels, '"counter_events"') OR instr(channels, '"user_events"'));
--> statement-breakpoint
-- Counts travel as hints: whoever changes one sends it.
DROP TRIGGER posts_likes_change;
--> statement-breakpoint
DROP TRIGGER posts_comments_change;
--> statement-breakpoint
DROP TRIGGER posts_views_change;
--> statement-breakpoint
DROP TRIGGER comments_likes_change;
--> statement-breakpoint
DROP TRIGGER events_insert;
--> statement-breakpoint
-- As before, but for hints (src/events/catalog.ts), which have no sequence.
CREATE TRIGGER events_insert AFTER INSERT ON events WHEN NEW.type NOT IN ('counter_update', 'user_status_change') BEGIN
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
