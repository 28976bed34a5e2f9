// Stands in for @upstash/core-analytics in the bundle (see wrangler.toml). The rate limiter uses it only with `analytics: true`.
export const Analytics = undefined
