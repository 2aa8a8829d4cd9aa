/**
 * Takes the picture of a machine's health, keeps the one of before the latch on disk, and holds the one of after
 * against it until nothing is worse or the time for that is over. What can't be looked at here is left out and said.
 */
import { join } from 'node:path'
import * as v from 'valibot'
import type { Step } from '../../protocol/files.ts'
import { aptEnvironment } from '../apt/command.ts'
import { shortList } from '../apt/plan.ts'
import { isWatched, parseUnits, type Unit, unitsArgv } from '../apt/units.ts'
import { readIfExists, writeFileDurably } from '../disk/disk.ts'
import {
  type Circumstances,
  compareHealth,
  type Health,
  healthSchema,
  parseBound,
  parseListening,
  parseNameservers,
  parseRoutes,
} from './health.ts'
import { readGrantKeys } from '../disk/grant-key.ts'
import { ackedUpTo, type Ending, failedFor, type Order } from './order.ts'

const ASK_MS_MAX = 30_000
const CONNECT_MS_MAX = 10_000
const LOOK_AGAIN_MS = 2000
const PORT = 7600
/** Linux's own default for the first port that it gives by itself. */
const EPHEMERAL_FROM = 32_768

/** Right before the latch, once for each try; a restart or a reboot finds it on disk. */
export function keepHealth(order: Order, then: () => void): void {
  takeHealth(order, [], (health) => {
    for (const reason of health.absent) order.records.note(`health: ${reason}`)
    writeFileDurably(order.context.ports.disk, order.files.health, `${JSON.stringify(health)}\n`, { mode: 0o640 })
    then()
  })
}

export function readHealth(order: Order): Health | null {
  const bytes = readIfExists(order.context.ports.disk, order.files.health)
  return bytes === null ? null : v.parse(healthSchema, JSON.parse(bytes.toString('utf8')))
}

/**
 * Answers null as soon as nothing is worse than before, and a failure when something is that no waiting mends, or
 * still is at `deadlineAt`. A machine that is cut off could not tell its result anyway, and a cut has most often
 * nothing to do with the run, so its way back is waited for longer (`limits.offline`).
 */
export function awaitHealth(order: Order, step: Step, deadlineAt: number, then: (ending: Ending | null) => void): void {
  const { ports, config } = order.context
  const before = readHealth(order)
  if (before === null) {
    order.records.note('health is not compared: there is no picture of before')
    return then(null)
  }
  const watched = (before.units ?? []).filter((unit) => isWatched(unit, false)).map((unit) => unit.id)
  const since = ports.now()
  let said = ''
  let saidAt = 0
  const look = () =>
    takeHealth(order, watched, (after) => {
      const { worse, notes } = compareHealth(before, after, circumstancesOf(order))
      const names = worse.map((one) => one.text)
      if (worse.length === 0) {
        if (said !== '')
          order.records.note(`health: as before again, ${Math.round((ports.now() - since) / 1000)} s later`)
        for (const note of notes) order.records.note(`health: ${note}`)
        return then(null)
      }
      // What is acknowledged went over the agent's old connection: then only new ones fail, and that is the machine.
      const isCutOff = worse.every((one) => one.isOffline === true) && (said === '' || ackedUpTo(order) < saidAt)
      const until = isCutOff ? deadlineAt + config.limits.offlineMs : deadlineAt
      if (worse.some((one) => one.isFinal) || ports.now() >= until) {
        return then(
          failedFor(step, 'check', `the machine is worse than before: ${shortList(names)}`, names, [
            'Mend what got worse (systemctl --failed, ip route, journalctl -b), then resolve the order or retry.',
          ]),
        )
      }
      if (names.join() !== said) {
        order.records.note(`health: not yet as before: ${shortList(names)}`)
        saidAt = order.records.count()
      }
      said = names.join()
      ports.after(LOOK_AGAIN_MS, look)
    })
  // Services need time to fail or to come up; a private root has none.
  if (config.limits.settleMs === 0 || order.target.root !== null) return look()
  ports.after(config.limits.settleMs, look)
}

type Connect = (done: Parameters<Order['context']['ports']['connect']>[2]) => void

function takeHealth(order: Order, watched: readonly string[], then: (health: Health) => void): void {
  const { ports } = order.context
  const { machine } = ports
  const isPrivate = order.target.root !== null
  const absent = isPrivate
    ? ['a private root has no units, ports, routes and resolver of its own, so only the connection is compared']
    : []
  takeUnits(order, watched, (units) => {
    if (!isPrivate && units === null) absent.push('there is no systemd that answers here, so units are not compared')
    const to = wayToCoordinator(order)
    const connect: Connect =
      to === null
        ? (done) => done({ how: 'unknown', problem: 'no coordinator is named in the configuration' })
        : (done) => ports.connect(to, CONNECT_MS_MAX, done)
    connect((connected) => {
      const text = (path: string) => machine.textOf(path) ?? ''
      const resolver = machine.textOf('/etc/resolv.conf')
      then({
        at: ports.now(),
        bootId: machine.bootId,
        kernel: machine.kernel,
        units,
        listening: isPrivate ? null : parseListening(`${text('/proc/net/tcp')}\n${text('/proc/net/tcp6')}`),
        bound: isPrivate ? null : parseBound(`${text('/proc/net/udp')}\n${text('/proc/net/udp6')}`),
        routes: isPrivate ? null : parseRoutes(text('/proc/net/route'), text('/proc/net/ipv6_route')),
        // A machine without the file has no nameservers, which counts only when it had some.
        nameservers: isPrivate ? null : parseNameservers(resolver ?? ''),
        coordinator: { address: to === null ? '' : `${to.host}:${to.port}`, ...connected },
        absent,
      })
    })
  })
}

/** From files that only root writes: the configuration, else what the machine was enrolled with. */
function wayToCoordinator(order: Order): { readonly host: string; readonly port: number } | null {
  const { ports, config, layout } = order.context
  const url = config.coordinator ?? readGrantKeys(ports.disk, layout)?.coordinator
  if (url === undefined) return null
  const { hostname, port } = new URL(url)
  return { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: port === '' ? PORT : Number(port) }
}

/** Null where there is no systemd to ask. */
function takeUnits(order: Order, watched: readonly string[], then: (units: Unit[] | null) => void): void {
  const { disk, processes } = order.context.ports
  if (order.target.root !== null || disk.factsOf('/run/systemd/system') === null) return then(null)
  const output = join(order.files.folder, 'units.txt')
  disk.remove(output)
  const spec = {
    argv: unitsArgv(watched),
    environment: aptEnvironment(order.target, null, order.id),
    folder: '/',
    output,
    timeLimitMs: ASK_MS_MAX,
    diesWithUs: true,
  }
  processes.start(spec, (end) => {
    const units = parseUnits(readIfExists(disk, output)?.toString('utf8') ?? '')
    disk.remove(output)
    then(end.status === 0 && units.length > 0 ? units : null)
  })
}

function circumstancesOf(order: Order): Circumstances {
  return { ephemeralFrom: ephemeralFrom(order), hasRemovals: order.approved.removes.length > 0 }
}

function ephemeralFrom(order: Order): number {
  const first = Number(
    /^\d+/.exec(order.context.ports.machine.textOf('/proc/sys/net/ipv4/ip_local_port_range') ?? '')?.[0],
  )
  return Number.isNaN(first) ? EPHEMERAL_FROM : first
}
