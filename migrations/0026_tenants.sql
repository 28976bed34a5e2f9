ALTER TABLE `delivery_attempts` ADD `answer_headers` text;--> statement-breakpoint
ALTER TABLE `webhook_hours` ADD `last_success_at` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `webhook_hours` ADD `last_failure_at` integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE `webhooks` ADD `tenant` text;--> statement-breakpoint
CREATE INDEX `webhooks_tenant` ON `webhooks` (`tenant`,`id`) WHERE tenant IS NOT NULL;
--> statement-breakpoint
DROP TRIGGER webhooks_changed;
--> statement-breakpoint
CREATE TRIGGER webhooks_changed AFTER UPDATE OF status, channels, types, filter, tenant ON webhooks
WHEN (OLD.status, OLD.channels, OLD.types, OLD.filter, OLD.tenant) IS NOT (NEW.status, NEW.channels, NEW.types, NEW.filter, NEW.tenant) BEGIN
  INSERT INTO webhook_version (id, version) VALUES (1, hex(randomblob(8)))
  ON CONFLICT (id) DO UPDATE SET version = excluded.version;
END;
