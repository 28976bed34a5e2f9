CREATE TABLE `webhook_version` (
	`id` integer PRIMARY KEY NOT NULL,
	`version` text NOT NULL
);

--> statement-breakpoint
CREATE TRIGGER webhooks_added AFTER INSERT ON webhooks BEGIN
  INSERT INTO webhook_version (id, version) VALUES (1, hex(randomblob(8)))
  ON CONFLICT (id) DO UPDATE SET version = excluded.version;
END;
--> statement-breakpoint
CREATE TRIGGER webhooks_changed AFTER UPDATE OF status, channels, types, filter ON webhooks
WHEN (OLD.status, OLD.channels, OLD.types, OLD.filter) IS NOT (NEW.status, NEW.channels, NEW.types, NEW.filter) BEGIN
  INSERT INTO webhook_version (id, version) VALUES (1, hex(randomblob(8)))
  ON CONFLICT (id) DO UPDATE SET version = excluded.version;
END;
--> statement-breakpoint
CREATE TRIGGER webhooks_gone AFTER DELETE ON webhooks BEGIN
  INSERT INTO webhook_version (id, version) VALUES (1, hex(randomblob(8)))
  ON CONFLICT (id) DO UPDATE SET version = excluded.version;
END;
