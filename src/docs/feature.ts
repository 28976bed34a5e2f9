import type { Feature } from '../feature.ts'
import { docs as routes } from './routes.ts'

/** The meaning of problems. The OpenAPI document and the page that shows it are static assets. */
export const docs: Feature = { name: 'docs', unconfiguredRoutes: [['/', routes]] }
