/** Brings the faults of a seed about: when each comes, to whom, and what heals it. */
import { join } from 'node:path'
import type { LinkEvents } from '../../agent/ports.ts'
import type { MemoryDisk } from '../../coordinator/store/memory.ts'
import type { ChangeJudge } from './changes.ts'
import { COMING, type Coming, type Faults } from './faults.ts'
import type { Host } from './host.ts'
import { Hostile } from './hostile.ts'
import type { Machine } from './machine.ts'
import { PACKAGES, type Repository } from './repository.ts'
import type { Network } from './network.ts'
import type { Coordinator } from './coordinator.ts'
import type { Ledger } from './ledger.ts'
import { type Dice, createDice } from './random.ts'
import type { Time } from './time.ts'

/** What of its world it touches. */
export type Scene = {
  readonly time: Time
  readonly dice: Dice
  readonly faults: Faults
  readonly machines: ReadonlyMap<string, Machine>
  readonly ledger: Ledger
  readonly coordinator: Coordinator
  readonly network: Network
  readonly repository: Repository
  readonly healing: boolean
  readonly remote: { readonly judge: ChangeJudge } | null
  readonly met: (fault: string, machine?: Host) => void
  readonly enrol: (name: string, replace: boolean) => Promise<Machine | null>
}

const PUBLISH_MS = 150_000
const GHOST_MS_MAX = 200_000

/** Owns what was kept for later harm: an old copy of the database. */
export class Mischief {
  readonly #world: Scene
  #old: MemoryDisk | null = null
  /** True once an older database was restored: counters of then may have been used since. */
  #isOld = false
  readonly #clones = new Map<string, Machine>()
  #hostile: Hostile | null = null
  /** Sessions of machines without power that the present life of the coordinator still shows as connected. */
  readonly #ghosts = new Map<string, { readonly life: unknown; readonly since: number }>()
  /** Machines that were thrown away; the coordinator may end, or get an older database, before it has their successors. */
  readonly #thrownAway = new Set<string>()

  constructor(world: Scene) {
    this.#world = world
  }

  begin(): void {
    const { time, dice, faults } = this.#world
    this.#hostile = new Hostile(createDice(dice.below(2 ** 31), 'hostile'))
    // Each kind has its own dice, also when it is off, so that turning one off leaves the others as they are.
    for (const kind of Object.keys(COMING) as Coming[]) {
      const own = createDice(dice.below(2 ** 31), kind)
      const rate = faults.rates.get(kind)
      if (rate !== undefined) this.#every(own, 600_000 / rate, () => this.#bring(kind, own))
    }
    const replace = () => {
      this.#replaceQuarantined()
      this.#lookForGhosts()
      time.after(20_000, replace)
    }
    replace()
    const publish = () => {
      if (this.#world.healing) return
      this.#world.repository.publish(time.now(), dice.chance(0.3))
      time.after(dice.between(PUBLISH_MS / 2, PUBLISH_MS * 2), publish)
    }
    publish()
    this.#every(dice, 60_000, () => this.#litter())
    this.#every(dice, 120_000, () => (this.#old = this.#world.coordinator.snapshot()))
  }

  /** Everything is up again and nothing fails any more. */
  heal(): void {
    const { machines, network, coordinator } = this.#world
    network.unblockAll()
    coordinator.clock.run(1)
    coordinator.doom = 0
    coordinator.commitDoom = 0
    for (const machine of [...machines.values(), ...this.#clones.values()]) {
      machine.dooms.clear()
      machine.disk.fault = null
      machine.skewMs = 0
      machine.clock.run(1)
      machine.boot()
    }
  }

  cloneOf(machine: string): Machine | undefined {
    return this.#clones.get(machine)
  }

  /** What a machine hears of its coordinator when someone stands between them. */
  overheard(machine: Host, events: LinkEvents): LinkEvents {
    const { dice, faults } = this.#world
    const onMessage: LinkEvents['onMessage'] = (data, isBinary) => {
      if (typeof data === 'string') this.#hostile?.overhear(data)
      const isHostile = faults.isPeerHostile && !this.#world.healing
      const first = isHostile && typeof data === 'string' ? this.#hostile?.forestall(data) : null
      if (first != null) {
        this.#world.met('evil peer', machine)
        events.onMessage(JSON.stringify({ t: 'grant', ...first }), false)
      }
      events.onMessage(data, isBinary)
      if (!faults.isPeerHostile || this.#world.healing || !dice.chance(0.05)) return
      const forged = this.#hostile?.forge(machine.id)
      if (forged == null) return
      this.#world.met('evil peer', machine)
      events.onMessage(JSON.stringify({ t: 'grant', ...forged }), false)
    }
    return { ...events, onMessage }
  }

  /** The unprivileged half of an evil machine leaves what it likes for the runner. */
  #litter(): void {
    const { machines, ledger } = this.#world
    const machine = [...machines.values()].find((one) => ledger.isEvil(one))
    if (machine?.isUp !== true || machine.disk.fault !== null || this.#hostile === null) return
    this.#world.met('evil inbox', machine)
    const { name, text } = this.#hostile.litter(machine.id)
    machine.disk.port.write(join(machine.layout.inbox, name), Buffer.from(text), 'append', 0o640)
  }

  /** An evil machine says more than its agent does. */
  corrupt(machine: Host, text: string): readonly string[] {
    const { dice, ledger, coordinator, healing } = this.#world
    if (!ledger.isEvil(machine) || healing || !dice.chance(0.2)) return [text]
    const rows = [...(coordinator.disk.tables.get('orders') ?? [])]
    if (rows.length === 0) return [text]
    this.#world.met('evil agent', machine)
    const open = rows.filter(([, row]) => row.live && /"state":"(granted|running)"/.test(row.doc))
    const [order] = dice.pick(open.length > 0 && dice.chance(0.7) ? open : rows)
    const n = (coordinator.disk.logs.get(order)?.length ?? 0) + 1
    const at = this.#world.time.now()
    const result = {
      n,
      at,
      type: 'result',
      outcome: 'succeeded',
      cause: null,
      step: 'verify',
      message: 'lie',
      evidence: [],
      advice: [],
    }
    const lie = {
      ...result,
      latched: true,
      rebootPending: false,
      installed: [],
      outputBytes: 0,
      outputSha256: '0'.repeat(64),
    }
    const invented = dice.pick([
      JSON.stringify({ t: 'granted', order, fence: dice.below(1000) }),
      JSON.stringify({ t: 'prefetched', order, problem: null }),
      JSON.stringify({ t: 'records', order, records: [lie] }),
      JSON.stringify({
        t: 'records',
        order,
        records: [
          { n, at, type: 'step', step: 'install' },
          { ...lie, n: n + 1 },
        ],
      }),
      JSON.stringify({ t: 'records', order, records: [{ n: n + 3, at, type: 'step', step: 'install' }] }),
      text,
      text.slice(0, dice.below(text.length)),
      '{"t":"hello"}',
    ])
    if (invented.includes(lie.message)) ledger.lied(machine, order)
    return dice.chance(0.5) ? [invented, text] : [text, invented]
  }

  #every(dice: Dice, periodMs: number, act: () => void): void {
    this.#world.time.after(dice.between(1, Math.max(2, Math.floor(periodMs * 2))), () => {
      if (this.#world.healing) return
      act()
      this.#every(dice, periodMs, act)
    })
  }

  #bring(kind: Coming, dice: Dice): void {
    const world = this.#world
    const { network, coordinator } = world
    const machine = this.#victim(dice)
    const met = () => world.met(kind, machine)
    switch (kind) {
      case 'cut':
        met()
        return network.cut(machine)
      case 'half-open':
        met()
        return network.halfOpen(machine)
      case 'partition':
        met()
        return network.block(machine, ['up', 'down'], dice.between(1000, 200_000))
      case 'one way':
        met()
        return network.block(machine, [dice.pick(['up', 'down'] as const)], dice.between(1000, 200_000))
      case 'storm':
        world.met(kind)
        return network.cutAll()
      case 'agent killed':
      case 'runner killed':
      case 'wrapper killed':
      case 'agent power cut':
      case 'runner power cut':
      case 'wrapper power cut': {
        const [who = '', ...how] = kind.split(' ')
        const calls = dice.between(1, who === 'wrapper' ? 25 : dice.pick([10, 60, 400]))
        machine.dooms.set(who, { calls, how: how.join(' ') as 'killed' | 'power cut' })
        return
      }
      case 'power cut':
        met()
        machine.pullPlug()
        world.time.after(dice.between(5000, 300_000), () => machine.boot())
        return
      case 'reboot':
        met()
        return machine.rebootSoon()
      case 'coordinator killed':
        coordinator.doom = dice.between(1, 200)
        return
      case 'commit fails':
        coordinator.commitDoom = 1
        return
      default:
        return this.#bringRarer(kind, { machine, dice, met })
    }
  }

  /** Where something is going on most harm is done. */
  #victim(dice: Dice): Machine {
    const all = [...this.#world.machines.values()]
    const busy = all.filter((machine) => machine.orderAtWork() !== null)
    return dice.pick(busy.length > 0 && dice.chance(0.8) ? busy : all)
  }

  #bringRarer(kind: Coming, { machine, dice, met }: { machine: Machine; dice: Dice; met: () => void }): void {
    const { coordinator, repository, time } = this.#world
    switch (kind) {
      case 'disk full':
      case 'disk broken': {
        const any = dice.chance(0.5) ? machine : dice.pick([...this.#world.machines.values()])
        this.#world.met(kind, any)
        any.disk.fault = kind === 'disk full' ? 'full' : 'broken'
        time.after(dice.between(1000, 120_000), () => (any.disk.fault = null))
        return
      }
      case 'clock jump':
        met()
        machine.skewMs = dice.pick([-3_600_000, -60_000, 60_000, 200_000, 3_600_000])
        return
      case 'coordinator clock jump':
        this.#world.met(kind)
        coordinator.skewMs = dice.pick([-3_600_000, -60_000, 60_000, 600_000])
        this.#world.ledger.terms.clockWasSet()
        return
      case 'archive tampered':
        met()
        return repository.tamper(dice.pick(PACKAGES), time.now())
      case 'package changed': {
        // What another hand changes in the middle of a run nobody can answer for.
        if (machine.orderAtWork() !== null || !machine.isUp) return
        met()
        const [one] = machine.upgrades('prod')
        if (one !== undefined) machine.setPackage(one.name, one.version, 'installed')
        return
      }
      case 'clone':
        return this.#clone(machine, dice)
      case 'old database':
        return this.#restoreOld()
      default:
    }
  }

  /** An image is made of an idle machine, and someone starts it beside the first. */
  #clone(machine: Machine, dice: Dice): void {
    const { ledger } = this.#world
    const isIdle = ledger.orderAtWork(machine) === null && !machine.hasInbox()
    if (!isIdle || this.#clones.has(machine.id) || ledger.isEvil(machine)) return
    this.#world.met('clone', machine)
    const made = machine.clone(createDice(dice.below(2 ** 31), 'clone'))
    this.#clones.set(machine.id, made)
    ledger.copied(machine, made)
    made.boot()
  }

  /**
   * A machine in quarantine is made anew in its place, and its copy thrown away; whoever does that looks first that
   * neither is at work.
   */
  #replaceQuarantined(): void {
    const { coordinator, machines, ledger, enrol } = this.#world
    for (const row of coordinator.view()?.all('machines') ?? []) {
      // One that nobody has: its enrolment was answered by a coordinator that ended, or stands in an older database.
      const isLost = !machines.has(row.id) || this.#thrownAway.has(row.id)
      if (row.state === 'retired' || (row.quarantined === null && !isLost)) continue
      const clone = this.#clones.get(row.id)
      if (row.quarantined !== null && clone === undefined && !isLost && !this.#isOld)
        ledger.violate('SIM-15 programs', `${row.name} is in quarantine, and has no clone: ${row.quarantined}`)
      const all = [
        ...[...machines.values()].filter((one) => one.name === row.name),
        ...(clone === undefined ? [] : [clone]),
      ]
      if (all.some((one) => ledger.orderAtWork(one) !== null || one.isInDpkg())) continue
      for (const one of all) one.retire()
      this.#clones.delete(row.id)
      this.#thrownAway.add(row.id)
      ledger.replaced(all)
      enrol(row.name, true).then(
        (made) => made?.boot(),
        // The coordinator ended meanwhile; it is tried again a little later.
        () => undefined,
      )
    }
  }

  /** A machine without power is not shown as connected for long: three times what may pass until it is missed. */
  #lookForGhosts(): void {
    const { coordinator, machines, ledger, time } = this.#world
    const { life } = coordinator
    for (const { machine: id, session } of life?.driver.view.all('sessions') ?? []) {
      const machine = machines.get(id)
      const isGhost = machine?.isUp === false && !this.#clones.has(id)
      const ghost = this.#ghosts.get(session)
      if (!isGhost) this.#ghosts.delete(session)
      else if (ghost?.life !== life) this.#ghosts.set(session, { life, since: time.now() })
      else if (time.now() - ghost.since > GHOST_MS_MAX)
        ledger.violate('SIM-24 ghosts', `${machine.name} has no power since ${ghost.since} and is shown as connected`)
    }
  }

  #restoreOld(): void {
    const { coordinator } = this.#world
    if (this.#old === null) return
    this.#world.met('old database')
    this.#world.ledger.databaseLost(coordinator.disk.logs)
    this.#world.remote?.judge.databaseLost()
    coordinator.restore(this.#old)
    this.#old = null
    this.#isOld = true
  }
}
