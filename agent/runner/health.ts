/**
 * What a machine's health is, and when it has become worse. Pure: a picture of before the latch and one of after the
 * install, or after the reboot, go in. Equal and better are fine; each thing that got worse is named.
 */
import * as v from 'valibot'
import { countSchema } from '../../protocol/ids.ts'
import { isWatched } from '../apt/units.ts'

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

export function compareHealth(before: Health, after: Health, ephemeralFrom: number): Comparison {
  const parts = [
    compareUnits(before, after),
    compareListening(before, after, ephemeralFrom),
    compareRoutes(before, after),
    compareNameservers(before, after),
    compareConnection(before, after),
  ]
  return { worse: parts.flatMap((part) => part.worse), notes: parts.flatMap((part) => part.notes) }
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
    .filter((unit) => unit.active === 'failed' && was.get(unit.id)?.active !== 'failed')
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

function compareListening(before: Health, after: Health, ephemeralFrom: number): Comparison {
  if (before.listening === null || after.listening === null) return SAME
  const is = new Map<number, boolean>()
  for (const one of after.listening) is.set(one.port, one.isOpen || is.get(one.port) === true)
  const worse: Worse[] = []
  const notes: string[] = []
  for (const one of before.listening) {
    const isOpenNow = is.get(one.port)
    if (isOpenNow === true || (isOpenNow === false && !one.isOpen)) continue
    const text =
      isOpenNow === undefined
        ? `nothing listens on TCP port ${one.port} any more`
        : `TCP port ${one.port} is open to this machine alone now`
    // Such a port was given by the kernel and is another after each start of its program.
    if (one.port >= ephemeralFrom) notes.push(text)
    else if (!worse.some((known) => known.text === text)) worse.push({ text, isFinal: false })
  }
  return { worse, notes }
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
  return text.split('\n').flatMap((line) => {
    const match = /^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ 0A /.exec(line)
    if (match === null) return []
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
