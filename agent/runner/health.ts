/**
 * What a machine's health is, and when it has become worse. Pure: a picture of before the latch and one of after the
 * install, or after the reboot, go in. Equal and better are fine; each thing that got worse is named.
 */
import * as v from 'valibot'
import { countSchema } from '../../protocol/ids.ts'
import { isOwn, isWatched } from '../apt/units.ts'

const unitSchema = v.strictObject({
  id: v.string(),
  load: v.string(),
  active: v.string(),
  sub: v.string(),
  file: v.string(),
  isTriggered: v.boolean(),
})
export const healthSchema = v.strictObject({
  at: countSchema,
  bootId: v.string(),
  kernel: v.string(),
  /** Null for what can't be known here; `absent` says why. */
  units: v.nullable(v.array(unitSchema)),
  /** TCP ports on which something listens; `isOpen` when not on loopback alone. */
  listening: v.nullable(v.array(v.strictObject({ port: countSchema, isOpen: v.boolean() }))),
  /** UDP ports that belong to sockets without a peer; null also in the picture of a runner that did not look. */
  bound: v.optional(v.nullable(v.array(v.strictObject({ port: countSchema, isOpen: v.boolean() }))), null),
  /** Default routes: `IPv4 by eth0`. */
  routes: v.nullable(v.array(v.string())),
  nameservers: v.nullable(v.array(v.string())),
  coordinator: v.strictObject({
    address: v.string(),
    how: v.picklist(['connected', 'refused', 'unreachable', 'unknown']),
    problem: v.nullable(v.string()),
  }),
  absent: v.array(v.string()),
})
export type Health = v.InferOutput<typeof healthSchema>

/** `isFinal`: no waiting mends it. `isOffline`: it is the way to the coordinator. */
export type Worse = { readonly text: string; readonly isFinal: boolean; readonly isOffline?: boolean }
export type Comparison = { readonly worse: readonly Worse[]; readonly notes: readonly string[] }

export type Circumstances = {
  /** The first port that the kernel gives by itself. */
  readonly ephemeralFrom: number
  /** The approved plan removes packages. */
  readonly hasRemovals: boolean
}

export function compareHealth(
  before: Health,
  after: Health,
  { ephemeralFrom, hasRemovals }: Circumstances,
): Comparison {
  // Which service had which port is not known; that one was taken away explains what is gone with it.
  const isExplained = hasRemovals && hasLostService(before, after)
  const ports = [
    comparePorts(before.listening, after.listening, TCP, (port) => port < ephemeralFrom),
    comparePorts(before.bound, after.bound, UDP, (port) => port < UDP_BY_CHANCE_FROM && !DHCP_CLIENTS.includes(port)),
  ].map(({ worse, notes }) =>
    isExplained ? { worse: [], notes: [...worse.map((one) => one.text), ...notes] } : { worse, notes },
  )
  const parts = [
    compareUnits(before, after),
    ...ports,
    compareRoutes(before, after),
    compareNameservers(before, after),
    compareConnection(before, after),
  ]
  return { worse: parts.flatMap((part) => part.worse), notes: parts.flatMap((part) => part.notes) }
}

function hasLostService(before: Health, after: Health): boolean {
  const gone = new Set((after.units ?? []).filter((unit) => unit.load === 'not-found').map((unit) => unit.id))
  return (before.units ?? []).some((unit) => unit.active === 'active' && gone.has(unit.id))
}

const SAME: Comparison = { worse: [], notes: [] }

function compareUnits(before: Health, after: Health): Comparison {
  if (before.units === null) return SAME
  if (after.units === null)
    return { worse: [{ text: 'systemctl does not answer any more', isFinal: false }], notes: [] }
  const isBooted = before.bootId !== after.bootId
  const was = new Map(before.units.map((unit) => [unit.id, unit]))
  const is = new Map(after.units.map((unit) => [unit.id, unit]))
  const worse: Worse[] = after.units
    .filter((unit) => unit.active === 'failed' && was.get(unit.id)?.active !== 'failed' && !isOwn(unit))
    .map((unit) => ({ text: `unit ${unit.id} has failed`, isFinal: true }))
  const notes: string[] = []
  for (const unit of before.units) {
    if (!isWatched(unit, isBooted)) continue
    const now = is.get(unit.id)
    if (now?.active === 'active' || now?.active === 'reloading' || now?.active === 'failed') continue
    // Its files went with a package, which the approved plan says or implies.
    if (now?.load === 'not-found') notes.push(`unit ${unit.id} was active and is no longer on this machine`)
    else worse.push({ text: `unit ${unit.id} was active and is ${now?.active ?? 'inactive'}`, isFinal: false })
  }
  return { worse, notes }
}

const TCP = { name: 'TCP', gone: 'nothing listens on' }
const UDP = { name: 'UDP', gone: 'nothing is bound to' }
/** bindresvport(3) takes any port from here on, and resolvers take higher ones for a moment each. */
const UDP_BY_CHANCE_FROM = 600
/** Some clients bind them only while they ask for an address. */
const DHCP_CLIENTS = [68, 546]

type Ports = Health['listening']
/** `isKept`: by this port others know the service; else its program is given another at each start. */
function comparePorts(before: Ports, after: Ports, kind: typeof TCP, isKept: (port: number) => boolean): Comparison {
  if (before === null || after === null) return SAME
  const is = new Map<number, boolean>()
  for (const one of after) is.set(one.port, one.isOpen || is.get(one.port) === true)
  const worse = new Map<string, Worse>()
  const notes = new Set<string>()
  for (const one of before) {
    const isOpenNow = is.get(one.port)
    if (isOpenNow === true || (isOpenNow === false && !one.isOpen)) continue
    const what = `${kind.name} port ${one.port}`
    const text = isOpenNow === undefined ? `${kind.gone} ${what} any more` : `${what} is open to this machine alone now`
    if (isKept(one.port)) worse.set(text, { text, isFinal: false })
    else if (kind !== UDP || !DHCP_CLIENTS.includes(one.port)) notes.add(text)
  }
  return { worse: [...worse.values()], notes: [...notes] }
}

function compareRoutes(before: Health, after: Health): Comparison {
  if (before.routes === null || after.routes === null) return SAME
  const familiesOf = (routes: readonly string[]) => new Set(routes.map((route) => route.split(' ')[0] ?? ''))
  const now = familiesOf(after.routes)
  const lost = [...familiesOf(before.routes)].filter((family) => !now.has(family))
  const isMoved = lost.length === 0 && before.routes.join() !== after.routes.join()
  return {
    worse: lost.map((family) => ({ text: `the ${family} default route is gone`, isFinal: false })),
    notes: isMoved ? [`default routes were ${before.routes.join(', ')} and are ${after.routes.join(', ')}`] : [],
  }
}

function compareNameservers(before: Health, after: Health): Comparison {
  if (before.nameservers === null || after.nameservers === null) return SAME
  const isLost = before.nameservers.length > 0 && after.nameservers.length === 0
  return { worse: isLost ? [{ text: 'resolv.conf names no nameserver any more', isFinal: false }] : [], notes: [] }
}

/** A refusal came back over the network: the coordinator may be restarting, which is no fault of this machine. */
function compareConnection(before: Health, after: Health): Comparison {
  const { address, how, problem } = after.coordinator
  const was = before.coordinator.how
  if (how === 'unknown') return { worse: [], notes: [`a new connection could not be tried: ${problem ?? ''}`] }
  if (how === 'unreachable' && (was === 'connected' || was === 'refused')) {
    const text = `no new connection to the coordinator at ${address} comes about (${problem ?? 'no answer'})`
    return { worse: [{ text, isFinal: false, isOffline: true }], notes: [] }
  }
  const isNews = how === 'refused' && was === 'connected'
  return {
    worse: [],
    notes: isNews ? [`the machine of the coordinator at ${address} answers, it itself does not`] : [],
  }
}

/** `/proc/net/tcp` and `tcp6`: what stands in state 0A listens. */
export function parseListening(text: string): { port: number; isOpen: boolean }[] {
  return socketsIn(text, '0A')
}

/** `/proc/net/udp` and `udp6`: a socket in state 07 has no peer, so it is no client that waits for its answer. */
export function parseBound(text: string): { port: number; isOpen: boolean }[] {
  return socketsIn(text, '07')
}

function socketsIn(text: string, wanted: string): { port: number; isOpen: boolean }[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) /.exec(line)
    if (match === null || match[3] !== wanted) return []
    const [, address = '', port = ''] = match
    // Words of the kernel's own byte order: 127.0.0.0/8, ::1, and 127.0.0.0/8 inside IPv6.
    const isLoopback =
      address.length === 8
        ? address.endsWith('7F')
        : address === '00000000000000000000000001000000' || /^0{16}FFFF0000[0-9A-F]{6}7F$/.test(address)
    return [{ port: parseInt(port, 16), isOpen: !isLoopback }]
  })
}

/** Default routes of `/proc/net/route` and `/proc/net/ipv6_route`. */
export function parseRoutes(v4: string, v6: string): string[] {
  const routes = new Set<string>()
  for (const line of v4.split('\n')) {
    const [device = '', destination, , flags = '0', , , , mask] = line.split(/\s+/)
    if (destination === '00000000' && mask === '00000000' && isUp(flags)) routes.add(`IPv4 by ${device}`)
  }
  for (const line of v6.split('\n')) {
    const fields = line.trim().split(/\s+/)
    const [destination, prefix] = fields
    const device = fields[9]
    if (device === undefined || device === 'lo' || prefix !== '00' || !/^0{32}$/.test(destination ?? '')) continue
    if (isUp(fields[8] ?? '0')) routes.add(`IPv6 by ${device}`)
  }
  return [...routes].toSorted()
}

/** route(8): RTF_UP is 1, RTF_REJECT 0x200. */
function isUp(flags: string): boolean {
  const bits = parseInt(flags, 16)
  return (bits & 1) === 1 && (bits & 0x200) === 0
}

export function parseNameservers(text: string): string[] {
  return [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((match) => match[1] ?? '')
}
