// Stands in for zod in the bundle (see wrangler.toml).
export {}
