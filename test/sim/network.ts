/**
 * The simulated network: connections between agents and the coordinator, as TCP and TLS give them. Within one
 * connection bytes neither change their order nor come twice, so what is lost, late or said again is so over the end
 * of a connection: cut (both sides hear of it), half-open (nobody does), a direction or both blocked (what was sent
 * comes when the block ends, if the connection lives so long), a process gone, a machine gone without a word.
 */
import type { Link as AgentLink, LinkEvents as AgentEvents } from '../../agent/ports.ts'
import type { Link, LinkEvents } from '../../coordinator/sessions/link.ts'
import type { Faults } from './faults.ts'
import type { Host, Proc } from './host.ts'
import type { Dice } from './random.ts'
import type { Time } from './time.ts'

export type NetworkPorts = {
  readonly time: Time
  readonly dice: Dice
  readonly faults: Faults
  /** The coordinator's end of a new connection; null when nobody listens. */
  readonly accept: (link: Link) => LinkEvents | null
  /** Runs something of the coordinator's process. */
  readonly inCoordinator: (act: () => void) => void
  /** What each side said, seen as it is put on the wire. */
  readonly said: (machine: Host, side: 'agent' | 'coordinator', text: string) => void
  /** What an evil machine would say instead. */
  readonly corrupt: (machine: Host, text: string) => readonly string[]
}

type Item = { readonly due: number; readonly bytes: number; readonly act: () => void }
type Pipe = { readonly items: Item[]; last: number; isPaused: boolean }
type Connection = {
  readonly machine: Host
  readonly proc: Proc
  agent: AgentEvents | null
  server: LinkEvents | null
  /** Nothing passes any more, and nobody was told. */
  isDead: boolean
  readonly up: Pipe
  readonly down: Pipe
}
type Direction = 'up' | 'down'

/** Owns all connections. */
export class Network {
  readonly #ports: NetworkPorts
  readonly #all = new Set<Connection>()
  readonly #blocked = new Map<string, { up: number; down: number }>()

  constructor(ports: NetworkPorts) {
    this.#ports = ports
  }

  connect(machine: Host, proc: Proc, events: AgentEvents): AgentLink {
    const pipe = (): Pipe => ({ items: [], last: 0, isPaused: false })
    const c: Connection = { machine, proc, agent: events, server: null, isDead: false, up: pipe(), down: pipe() }
    this.#all.add(c)
    this.#push(c, 'up', 0, () => this.#arrive(c))
    return {
      send: (text) => {
        machine.call(proc, `send ${text.slice(5, 14)}`)
        this.#ports.said(machine, 'agent', text)
        for (const said of this.#ports.corrupt(machine, text))
          this.#push(c, 'up', said.length, () => this.#hear(c, said))
      },
      close: () => this.#hangUp(c),
      terminate: () => this.#hangUp(c),
      bufferedBytes: () => c.up.items.reduce((sum, item) => sum + item.bytes, 0),
    }
  }

  isOpenFor(machine: Host): boolean {
    const now = this.#ports.time.now()
    const blocked = this.#blocked.get(machine.name)
    return blocked === undefined || (blocked.up <= now && blocked.down <= now)
  }

  /** Both sides hear of it, and what was under way is lost. */
  cut(machine: Host): void {
    for (const c of this.#of(machine)) {
      c.isDead = true
      this.#all.delete(c)
      this.#tell(c, 'agent')
      this.#tell(c, 'server')
    }
  }

  halfOpen(machine: Host): void {
    for (const c of this.#of(machine)) c.isDead = true
  }

  block(machine: Host, directions: readonly Direction[], forMs: number): void {
    const { time } = this.#ports
    const until = this.#blocked.get(machine.name) ?? { up: 0, down: 0 }
    for (const one of directions) until[one] = time.now() + forMs
    this.#blocked.set(machine.name, until)
    time.after(forMs + 1, () => {
      for (const c of this.#of(machine)) for (const one of directions) this.#pump(c, one)
    })
  }

  unblockAll(): void {
    this.#blocked.clear()
    for (const c of this.#all) for (const one of ['up', 'down'] as const) this.#pump(c, one)
  }

  cutAll(): void {
    for (const machine of new Set([...this.#all].map((c) => c.machine))) this.cut(machine)
  }

  /** The agent's process or its whole machine is gone: a kernel that is left says so, a dead machine can't. */
  gone(machine: Host, isPowerLoss: boolean): void {
    for (const c of this.#of(machine)) {
      if (c.agent === null) continue
      c.agent = null
      if (isPowerLoss) c.isDead = true
      else this.#push(c, 'up', 0, () => this.#tell(c, 'server'))
    }
  }

  /** The coordinator's process is gone; its kernel sends what it still has, and then the end. */
  coordinatorGone(): void {
    for (const c of [...this.#all]) {
      c.server = null
      c.up.items.length = 0
      if (this.#ports.dice.chance(0.5)) c.down.items.length = 0
      this.#push(c, 'down', 0, () => this.#tell(c, 'agent'))
    }
  }

  #of(machine: Host): Connection[] {
    return [...this.#all].filter((c) => c.machine === machine)
  }

  #arrive(c: Connection): void {
    const { accept, inCoordinator } = this.#ports
    if (c.agent === null) return
    inCoordinator(() => {
      c.server = accept(this.#serverLink(c))
    })
    if (c.server === null) this.#push(c, 'down', 0, () => this.#tell(c, 'agent', 'ECONNREFUSED'))
  }

  #serverLink(c: Connection): Link {
    const { dice } = this.#ports
    return {
      address: `10.0.0.${c.machine.name.replace(/\D+/g, '').slice(-2)}`,
      send: (text) => {
        this.#ports.said(c.machine, 'coordinator', text)
        // A machine that came up anew knows nothing of the connection and says so.
        if (c.isDead && c.agent === null && c.machine.isUp && dice.chance(0.5)) this.#tell(c, 'server')
        this.#push(c, 'down', text.length, () => this.#inAgent(c, (agent) => agent.onMessage(text, false)))
      },
      close: (code, reason) => {
        c.server = null
        this.#push(c, 'down', 0, () => this.#end(c, (agent) => agent.onClosed(code, reason)))
      },
      terminate: () => {
        c.server = null
        this.#push(c, 'down', 0, () => this.#tell(c, 'agent'))
      },
      pause: () => (c.up.isPaused = true),
      resume: () => {
        c.up.isPaused = false
        this.#pump(c, 'up')
      },
      bufferedBytes: () => c.down.items.reduce((sum, item) => sum + item.bytes, 0),
    }
  }

  #hear(c: Connection, text: string): void {
    this.#ports.inCoordinator(() => {
      c.server?.onBytes(text.length)
      c.server?.onMessage(text, false)
    })
  }

  #inAgent(c: Connection, act: (agent: AgentEvents) => void): void {
    const { agent } = c
    if (agent !== null) c.machine.run(c.proc, () => act(agent))
  }

  #end(c: Connection, act: (agent: AgentEvents) => void): void {
    this.#all.delete(c)
    const { agent } = c
    c.agent = null
    if (agent !== null) c.machine.run(c.proc, () => act(agent))
  }

  /** One side learns that the connection is no more; it is told later, never from within its own call. */
  #tell(c: Connection, side: 'agent' | 'server', why = 'ECONNRESET'): void {
    const { time, dice, faults, inCoordinator } = this.#ports
    time.after(dice.between(1, faults.delayMsMax), () => {
      if (side === 'agent') return this.#end(c, (agent) => agent.onClosed(null, why))
      const { server } = c
      c.server = null
      if (server !== null) inCoordinator(() => server.onClosed(why))
    })
  }

  #hangUp(c: Connection): void {
    if (c.agent === null) return
    c.agent = null
    this.#push(c, 'up', 0, () => this.#tell(c, 'server'))
  }

  #push(c: Connection, direction: Direction, bytes: number, act: () => void): void {
    const { time, dice, faults } = this.#ports
    const pipe = c[direction]
    pipe.last = Math.max(pipe.last, time.now() + dice.between(1, faults.delayMsMax))
    pipe.items.push({ due: pipe.last, bytes, act })
    time.after(pipe.last - time.now(), () => this.#pump(c, direction))
  }

  #pump(c: Connection, direction: Direction): void {
    const { time } = this.#ports
    const pipe = c[direction]
    for (;;) {
      const [first] = pipe.items
      const until = this.#blocked.get(c.machine.name)?.[direction] ?? 0
      if (first === undefined || first.due > time.now() || pipe.isPaused || until > time.now()) return
      pipe.items.shift()
      if (!c.isDead) first.act()
    }
  }
}
