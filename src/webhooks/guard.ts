import ipaddr from 'ipaddr.js'

/** Which endpoints are allowed. */
export interface GuardPolicy {
  /** Also http on loopback, on any port. */
  isPrivateAllowed: boolean
  /** Hosts of ours, in lower case; a port is ignored. */
  ownHosts: string[]
}

const MAX_CHARACTERS = 2_000
const PORTS = new Set(['', '443', '8443'])

/** Names that no resolver of the public Internet knows (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`), or should. */
const PRIVATE_NAMES =
  /(^|\.)(localhost|localdomain|local|internal|intranet|private|corp|home|lan|svc|consul|localnet|alt|arpa|test|invalid|onion)$/
/** Public names that lead to whatever address is in them, or to loopback; and a name of a metadata service. */
const WILDCARD_NAMES = /(^|\.)(nip\.io|sslip\.io|xip\.io|localtest\.me|lvh\.me|vcap\.me|lacolhost\.com|metadata\.goog)$/
/** Public addresses that are a cloud's own: Azure's host, Alibaba's metadata are not in any reserved range. */
const CLOUD_ADDRESSES = new Set(['168.63.129.16', '100.100.100.200'])

/**
 * Why an endpoint must not be at `url`, or undefined: only https, on public hosts, never our own (server-side request
 * forgery). `URL` reads addresses as the fetch does: decimal, octal, hex, short and full-width ones are all alike here.
 *
 * What it cannot see is where a public name leads: a Worker has no resolver. The platform's own network is what stops
 * a name that leads to a private address; see `global_fetch_strictly_public` in wrangler.toml.
 */
export function objectionTo(url: string, policy: GuardPolicy): string | undefined {
  if (url.length > MAX_CHARACTERS) return `must have at most ${MAX_CHARACTERS} characters`
  if (!URL.canParse(url)) return 'must be a URL'
  const { protocol, username, password, hostname, port, hash } = new URL(url)
  if (username !== '' || password !== '') return 'must have no credentials: give them as a header'
  if (hash !== '' || url.endsWith('#')) return 'must have no fragment'
  const isAddress = ipaddr.isValid(bare(hostname))
  if (policy.isPrivateAllowed && (protocol === 'http:' || protocol === 'https:') && isLoopback(hostname)) {
    return undefined
  }
  if (protocol !== 'https:') return 'must begin with https://'
  if (!PORTS.has(port)) return 'must have port 443 or 8443'
  if (isAddress) return isPublic(bare(hostname)) ? undefined : 'must be a public address'
  if (hostname.endsWith('.')) return 'must not end its host with a dot'
  if (policy.ownHosts.some((own) => own.replace(/:\d+$/, '') === hostname)) return 'must not be this service itself'
  if (!hostname.includes('.') || PRIVATE_NAMES.test(hostname) || WILDCARD_NAMES.test(hostname)) {
    return 'must be a public host'
  }
  return undefined
}

/** An IPv6 address without its brackets. */
const bare = (hostname: string) => hostname.replace(/^\[(.*)\]$/, '$1')

const isLoopback = (hostname: string) =>
  hostname === 'localhost' || (ipaddr.isValid(bare(hostname)) && ipaddr.parse(bare(hostname)).range() === 'loopback')

/** Only addresses that lead to one place on the Internet: none that carries another within (mapped, NAT64, 6to4). */
function isPublic(address: string): boolean {
  const parsed = ipaddr.parse(address)
  if (CLOUD_ADDRESSES.has(address) || parsed.range() !== 'unicast') return false
  return parsed.kind() === 'ipv4' || parsed.match(ipaddr.parse('2000::'), 3)
}
