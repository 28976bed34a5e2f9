CREATE TABLE `dashboard_sign_outs` (
	`session_id` text PRIMARY KEY NOT NULL
);
