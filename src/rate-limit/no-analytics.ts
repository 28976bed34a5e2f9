// Stands in for @upstash/core-analytics in the bundle (see scripts/build/worker.ts). The rate limiter uses it only with
// `analytics: true`.
export const Analytics = undefined
