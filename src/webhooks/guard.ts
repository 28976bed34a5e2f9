import ipaddr from 'ipaddr.js'
import { Problem } from '../errors.ts'

/** Which URLs endpoints may have. */
export interface GuardPolicy {
  /** Whether http on loopback is allowed too, on any port. */
  isPrivateAllowed: boolean
  /** Our own hosts: names or addresses in any notation, with or without a port. */
  ownHosts: string[]
}

const MAX_CHARACTERS = 2_000
const PORTS = new Set(['', '443', '8443'])

/** Names that no public resolver knows (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`), or should know. */
const PRIVATE_NAMES =
  /(^|\.)(localhost|localdomain|local|internal|intranet|private|corp|home|lan|svc|consul|localnet|alt|arpa|test|invalid|onion)$/
/** Public names that resolve to the address they contain, or to loopback; and the name of a metadata service. */
const WILDCARD_NAMES = /(^|\.)(nip\.io|sslip\.io|xip\.io|localtest\.me|lvh\.me|vcap\.me|lacolhost\.com|metadata\.goog)$/
/** Public addresses of a cloud itself: Azure's host and Alibaba's metadata service are in no reserved range. */
const CLOUD_ADDRESSES = new Set(['168.63.129.16', '100.100.100.200'])

/**
 * Why an endpoint must not be at `url`, or undefined: only https, on public hosts, never on ours (server-side request
 * forgery). `URL` parses addresses as fetch does: decimal, octal, hex, short and full-width ones become alike.
 *
 * It cannot see which address a public name resolves to: a Worker has no resolver. The network of the platform stops
 * names that resolve to private addresses; see `global_fetch_strictly_public` in wrangler.toml.
 */
export function objectionTo(url: string, policy: GuardPolicy): string | undefined {
  if (url.length > MAX_CHARACTERS) return `must have at most ${MAX_CHARACTERS} characters`
  if (!URL.canParse(url)) return 'must be a URL'
  const { protocol, username, password, hostname, host, port, hash } = new URL(url)
  if (username !== '' || password !== '') return 'must have no credentials: send them as a header'
  if (hash !== '' || url.endsWith('#')) return 'must have no fragment'
  const own = policy.ownHosts.flatMap(hostOf)
  if (policy.isPrivateAllowed && (protocol === 'http:' || protocol === 'https:') && isLoopback(hostname)) {
    return own.some((each) => each.host === host) ? 'must not be this service itself' : undefined
  }
  if (protocol !== 'https:') return 'must begin with https://'
  if (!PORTS.has(port)) return 'must have port 443 or 8443'
  if (own.some((each) => each.name === nameOf(hostname))) return 'must not be this service itself'
  if (ipaddr.isValid(bare(hostname))) return isPublic(bare(hostname)) ? undefined : 'must be a public address'
  if (hostname.endsWith('.')) return 'must not end its host with a dot'
  if (!hostname.includes('.') || PRIVATE_NAMES.test(hostname) || WILDCARD_NAMES.test(hostname)) {
    return 'must be a public host'
  }
  return undefined
}

/** Refuses a URL that no endpoint may have. `host` is that of the request: it is ours. */
export function requireAllowed(url: string, policy: GuardPolicy, host: string): void {
  const objection = objectionTo(url, { ...policy, ownHosts: [...policy.ownHosts, host] })
  if (objection === undefined) return
  const errors = [{ in: 'body', field: 'url', message: objection }]
  throw new Problem('invalid-request', `url: ${objection}`, { errors })
}

/** A host of ours as `URL` parses it: of loopback the port matters, otherwise only the name does. */
function hostOf(own: string): { host: string; name: string }[] {
  const authority = ipaddr.IPv6.isValid(own) ? `[${own}]` : own
  const url = authority.includes('://') ? authority : `http://${authority}`
  if (!URL.canParse(url)) return []
  const { host, hostname } = new URL(url)
  return [{ host, name: nameOf(hostname) }]
}

/** One notation for each name and address: without the final dot, and IPv4 where an IPv6 address carries one. */
function nameOf(hostname: string): string {
  const address = bare(hostname)
  return ipaddr.isValid(address) ? ipaddr.process(address).toNormalizedString() : hostname.replace(/\.$/, '')
}

/** An IPv6 address without brackets. */
const bare = (hostname: string) => hostname.replace(/^\[(.*)\]$/, '$1')

const isLoopback = (hostname: string) =>
  hostname === 'localhost' || (ipaddr.isValid(bare(hostname)) && ipaddr.parse(bare(hostname)).range() === 'loopback')

/** Only addresses of one place on the Internet: none that carries another (mapped, NAT64, 6to4). */
function isPublic(address: string): boolean {
  const parsed = ipaddr.parse(address)
  if (CLOUD_ADDRESSES.has(address) || parsed.range() !== 'unicast') return false
  return parsed.kind() === 'ipv4' || parsed.match(ipaddr.parse('2000::'), 3)
}
