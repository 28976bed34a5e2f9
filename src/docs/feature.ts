import type { Feature } from '../feature.ts'
import { docs as routes } from './routes.ts'

/** The OpenAPI document and the meaning of problems. */
export const docs: Feature = { name: 'docs', unconfiguredRoutes: [['/', routes]] }
