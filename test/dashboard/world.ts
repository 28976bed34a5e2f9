import { env } from 'cloudflare:workers'
import { expect } from 'vitest'
import type { Edge } from '../edge.ts'

export const ROOT = { Authorization: `Bearer ${env.SERVICE_TOKEN}` }

/** A request of the dashboard's page. */
export const PAGE = { 'Sec-Fetch-Site': 'same-origin', 'X-Dashboard': '1' }

export const send = (edge: Edge, method: string, path: string, headers: object, body?: object) =>
  edge.fetch(path, {
    method,
    headers: { ...headers, ...(body && { 'Content-Type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  })

/** The value of the dashboard's cookie that an answer sets. */
export const cookieIn = (response: Response) =>
  /^__Secure-dashboard=([^;]*)/.exec(response.headers.get('Set-Cookie') ?? '')?.[1] ?? ''

export const withCookie = (cookie: string) => ({ ...PAGE, Cookie: `theme=dark; __Secure-dashboard=${cookie}` })

/** Signs in, with a service token or with the token of a link. Answers the headers of later requests. */
export async function signIn(edge: Edge, body: object) {
  const response = await send(edge, 'POST', '/dashboard/session', PAGE, body)
  expect([response.status, await response.clone().text()]).toEqual([200, expect.any(String)])
  return withCookie(cookieIn(response))
}

export async function newToken(edge: Edge, ...scopes: string[]) {
  const body = { name: crypto.randomUUID(), scopes }
  const response = await send(edge, 'POST', '/v1/service-tokens', ROOT, body)
  expect(response.status).toBe(201)
  return response.json<{ id: string; token: string; name: string }>()
}

/** Expects a refusal with this status and type of problem. */
export async function expectProblem(answering: Response | Promise<Response>, status: number, type: string) {
  const response = await answering
  const text = await response.text()
  expect([response.status, text]).toEqual([status, expect.stringContaining(`"/problems/${type}"`)])
}
