import { expect, test } from 'vitest'
import { objectionTo } from '../../src/webhooks/guard.ts'

const policy = { isPrivateAllowed: false, ownHosts: ['edge.example.com', 'api.example.com:8787'] }

test.each([
  // Not https
  'http://example.com/',
  'ftp://example.com/',
  'file:///etc/passwd',
  'gopher://example.com/',
  'javascript:alert(1)',
  'data:text/plain,hello',
  'ws://example.com/',
  // Not a URL
  '',
  'example.com',
  '//example.com/',
  'https://',
  'https://exa mple.com/',
  // Loopback, however it is written
  'https://127.0.0.1/',
  'https://127.1/',
  'https://127.0.0.1./',
  'https://2130706433/',
  'https://0x7f000001/',
  'https://0x7f.0.0.1/',
  'https://017700000001/',
  'https://0177.0.0.1/',
  'https://127.0x0.0.01/',
  'https://①②⑦.⓪.⓪.①/',
  'https://127%2e0%2e0%2e1/',
  'https://127。0。0。1/',
  'https://0/',
  'https://0.0.0.0/',
  'https://[::1]/',
  'https://[::]/',
  'https://[0:0:0:0:0:0:0:1]/',
  // An IPv4 address within an IPv6 one
  'https://[::ffff:127.0.0.1]/',
  'https://[::ffff:7f00:1]/',
  'https://[::ffff:8.8.8.8]/',
  'https://[::127.0.0.1]/',
  'https://[::ffff:0:127.0.0.1]/',
  'https://[64:ff9b::7f00:1]/',
  'https://[64:ff9b:1::a9fe:a9fe]/',
  'https://[2002:7f00:1::]/',
  'https://[2001:0:7f00:1::]/',
  // Private, link-local, shared, reserved
  'https://10.0.0.1/',
  'https://172.16.0.1/',
  'https://172.31.255.255/',
  'https://192.168.1.1/',
  'https://3232235777/',
  'https://100.64.0.1/',
  'https://169.254.1.1/',
  'https://192.0.2.1/',
  'https://198.18.0.1/',
  'https://203.0.113.1/',
  'https://224.0.0.1/',
  'https://240.0.0.1/',
  'https://255.255.255.255/',
  'https://[fe80::1]/',
  'https://[fc00::1]/',
  'https://[fd12:3456:789a::1]/',
  'https://[fec0::1]/',
  'https://[ff02::1]/',
  'https://[2001:db8::1]/',
  'https://[100::1]/',
  'https://[4000::1]/',
  // Metadata services
  'https://169.254.169.254/latest/meta-data/',
  'https://2852039166/',
  'https://0xa9fea9fe/',
  'https://[::ffff:169.254.169.254]/',
  'https://[fd00:ec2::254]/',
  'https://168.63.129.16/',
  'https://100.100.100.200/',
  'https://metadata.google.internal/',
  'https://metadata.goog/',
  'https://kubernetes.default.svc/',
  'https://vault.service.consul/',
  'https://metadata/',
  // Names that are not public
  'https://localhost/',
  'https://LOCALHOST/',
  'https://localhost./',
  'https://a.localhost/',
  'https://localhost.localdomain/',
  'https://printer.local/',
  'https://printer.local./',
  'https://db.internal/',
  'https://router.lan/',
  'https://router.home.arpa/',
  'https://intranet/',
  'https://1.0.0.127.in-addr.arpa/',
  'https://example.onion/',
  'https://example.com./',
  // Names that carry an address
  'https://127.0.0.1.nip.io/',
  'https://10-0-0-1.sslip.io/',
  'https://localtest.me/',
  'https://a.lvh.me/',
  // Credentials, ports, fragments, length
  'https://user@example.com/',
  'https://user:secret@example.com/',
  'https://:secret@example.com/',
  'https://example.com@127.0.0.1/',
  'https://example.com:80/',
  'https://example.com:22/',
  'https://example.com:6379/',
  'https://example.com:8080/',
  'https://example.com/#fragment',
  'https://example.com/#',
  `https://example.com/${'a'.repeat(2_000)}`,
  // Ourselves
  'https://edge.example.com/v1/events',
  'https://EDGE.example.com:8443/',
  'https://edge.example.com./',
  'https://api.example.com/',
])('%s is refused', (url) => {
  expect(objectionTo(url, policy)).toMatch(/^must /)
})

test.each([
  'https://example.com',
  'https://example.com/hooks?key=a%20b',
  'https://hooks.example.com:443/',
  'https://hooks.example.com:8443/a/b',
  'https://HOOKS.Example.com/',
  'https://bücher.example.com/',
  'https://xn--bcher-kva.example.com/',
  'https://a.b.c.d.example.co.uk/',
  'https://localhost.example.com/',
  'https://local.example.com/',
  'https://internal-tools.example.com/',
  'https://myedge.example.com/',
  'https://8.8.8.8/',
  'https://1.1.1.1:8443/',
  'https://[2606:4700:4700::1111]/',
])('%s is allowed', (url) => {
  expect(objectionTo(url, policy)).toBeUndefined()
})

test('in development http on loopback is allowed, and nothing else that is private', () => {
  const open = { ...policy, isPrivateAllowed: true }
  for (const url of [
    'http://127.0.0.1:9000/',
    'http://localhost:9000/',
    'http://[::1]:9000/',
    'https://example.com/',
  ]) {
    expect([url, objectionTo(url, open)]).toEqual([url, undefined])
  }
  for (const url of [
    'http://example.com/',
    'http://10.0.0.1/',
    'https://192.168.1.1/',
    'http://169.254.169.254/',
    'http://user@127.0.0.1/',
    'http://0.0.0.0:9000/',
    'ftp://127.0.0.1/',
  ]) {
    expect([url, objectionTo(url, open)]).toEqual([url, expect.stringMatching(/^must /)])
  }
})

test.each([
  [
    '8.8.8.8',
    [
      'https://8.8.8.8/',
      'https://8.8.8.8:8443/',
      'https://134744072/',
      'https://0x08080808/',
      'https://010.8.8.8/',
      'https://8.8.8.8./',
      'https://８.8.8.8/',
      'https://[::ffff:8.8.8.8]/',
      'https://[::ffff:808:808]/',
    ],
  ],
  ['0x08.8.8.8:8787', ['https://8.8.8.8/']],
  ['::ffff:8.8.8.8', ['https://8.8.8.8/']],
  ['2606:4700:4700:0000::1111', ['https://[2606:4700:4700::1111]/', 'https://[2606:4700:4700:0:0:0:0:1111]:8443/']],
  ['[2606:4700:4700::1111]:443', ['https://[2606:4700:4700::1111]/', 'https://[2606:4700:4700:0::1111]/']],
  ['EDGE.Example.com.:8443', ['https://edge.example.com/', 'https://Edge.Example.COM:443/']],
  ['https://edge.example.com/', ['https://edge.example.com/hook']],
  ['bücher.example.com', ['https://xn--bcher-kva.example.com/', 'https://BÜCHER.example.com/']],
  ['xn--bcher-kva.example.com', ['https://bücher.example.com/']],
])('with the own host %s, %j are refused, and other hosts are not', (own, urls) => {
  const strict = { isPrivateAllowed: false, ownHosts: [own] }
  for (const url of urls) expect([url, objectionTo(url, strict)]).toEqual([url, 'must not be this service itself'])
  for (const url of ['https://8.8.4.4/', 'https://[2606:4700:4700::1112]/', 'https://other.example.com/']) {
    expect([url, objectionTo(url, strict)]).toEqual([url, undefined])
  }
})

test('in development an endpoint may be on our host, but not on our port', () => {
  const open = { isPrivateAllowed: true, ownHosts: ['127.0.0.1:8787', '[::1]:8787', 'localhost:8787'] }
  for (const url of [
    'http://127.0.0.1:8787/',
    'http://2130706433:8787/',
    'http://[0::1]:8787/',
    'http://LOCALHOST:8787/',
  ]) {
    expect([url, objectionTo(url, open)]).toEqual([url, 'must not be this service itself'])
  }
  expect(objectionTo('http://127.0.0.1:9000/', open)).toBeUndefined()
})

test('an own host that is no host is ignored', () => {
  expect(
    objectionTo('https://example.com/', { isPrivateAllowed: false, ownHosts: ['', 'no host', '%'] }),
  ).toBeUndefined()
})
