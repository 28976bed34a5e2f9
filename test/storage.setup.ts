import { reset } from 'cloudflare:test'
import { beforeAll } from 'vitest'

// Files share a runtime. Each starts with empty storage all the same.
beforeAll(reset)
