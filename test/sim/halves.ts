/** The ports that a simulated machine gives to the two real halves of smith: the agent and the runner. */
import { join } from 'node:path'
import { aptFoldersOf, archiveNameOf } from '../../agent/apt/command.ts'
import { type Machine as Kernel, planOnce } from '../../agent/apt/planning.ts'
import { readIdentity } from '../../agent/identity.ts'
import type { AgentPorts, PlanAnswer } from '../../agent/ports.ts'
import type { RunnerPorts } from '../../agent/runner/ports.ts'
import type { Plan } from '../../protocol/plan.ts'
import { SILENT } from './givens.ts'
import { Crash, type Host, type Proc } from './host.ts'
import { archiveBytes } from './repository.ts'

export function agentPorts(
  machine: Host,
  proc: Proc,
  startRunner: (onExit: (status: number | null) => void) => void,
): AgentPorts {
  const { world } = machine
  const disk = machine.diskOf(proc)
  const { identity } = readIdentity(disk, machine.layout)
  return {
    clock: {
      wallNow: () => machine.wallNow(),
      monotonicNow: () => machine.clock.monotonicNow(),
      after: (ms, then) => machine.later(proc, machine.clock.after(ms), then),
    },
    random: { bytes: (count) => machine.dice.bytes(count) },
    disk,
    layout: machine.layout,
    log: {
      ...SILENT,
      warn: (fields, message) => world.trace(`${machine.name} agent: ${message} ${JSON.stringify(fields)}`),
      error: (fields, message) => world.trace(`${machine.name} agent: ${message} ${JSON.stringify(fields)}`),
    },
    identity,
    limits: world.config.limits,
    connect: (events) => {
      machine.call(proc, 'connect')
      return world.connect(machine, proc, events)
    },
    describe: () => describe(machine),
    plan: (query, done) => plan(machine, proc, query, done),
    prefetch: (offer, done) => prefetch(machine, proc, offer, done),
    startRunner: machine.isDetached ? startRunner : null,
    watch: () => () => {},
  }
}

function describe(machine: Host): ReturnType<AgentPorts['describe']> {
  const rebootPending = machine.disk.port.factsOf('/run/reboot-required') !== null
  const facts = {
    agentVersion: 'sim',
    os: 'sim',
    arch: 'amd64',
    kernel: 'sim',
    apt: 'sim',
    cluster: null,
    region: null,
  }
  return {
    facts: { ...facts, rebootPending },
    bootId: machine.bootId,
    builds: ['prod'],
    template: true,
    impediment: null,
  }
}

type Query = { readonly build: string; readonly outageMinutes: number; readonly clockAheadMs: number | null }

function plan(machine: Host, proc: Proc, query: Query, done: (answer: PlanAnswer) => void): () => void {
  const { world } = machine
  let isWanted = true
  const answer = (given: PlanAnswer) => isWanted && machine.run(proc, () => done(given))
  const ports = {
    disk: machine.diskOf(proc),
    processes: machine.processesOf(proc),
    machine: kernelOf(machine),
    now: () => machine.wallNow(),
  }
  world.stirred()
  planOnce(ports, { config: world.config, ...query, folder: machine.layout.agentPlanning }).then(
    (made) => answer('plan' in made ? made : { refusal: made }),
    (error: unknown) => {
      if (error instanceof Crash) return
      const message = `planning failed: ${error instanceof Error ? error.message : String(error)}`
      answer({ refusal: { kind: 'internal', message, remedy: 'See the machine.' } })
    },
  )
  return () => {
    isWanted = false
  }
}

type Offer = { readonly order: string; readonly plan: Plan }

function prefetch(machine: Host, proc: Proc, offer: Offer, done: (problem: string | null) => void): () => void {
  const disk = machine.diskOf(proc)
  return machine.later(proc, machine.dice.between(50, machine.world.faults.aptMsMax), () => {
    const { archives } = aptFoldersOf(join(machine.layout.prefetch, offer.order))
    disk.makeFolder(archives, 0o700)
    for (const one of offer.plan.installs) {
      const path = join(archives, archiveNameOf(one))
      disk.remove(path)
      disk.write(path, archiveBytes(one.name, one.version), 'append', 0o600)
    }
    done(null)
  })
}

export function runnerPorts(machine: Host, proc: Proc): RunnerPorts {
  return {
    disk: machine.diskOf(proc),
    now: () => machine.wallNow(),
    after: (ms, then) => machine.later(proc, machine.clock.after(ms), then),
    processes: machine.processesOf(proc),
    machine: kernelOf(machine),
    lockHolder: (path) => machine.lockHolder(path),
    processesOf: () => [],
    connect: (_to, _ms, then) => {
      machine.call(proc, 'connect')
      machine.later(proc, 20, () =>
        then(
          machine.world.isReachable(machine)
            ? { how: 'connected', problem: null }
            : { how: 'unreachable', problem: 'EHOSTUNREACH' },
        ),
      )
    },
  }
}

function kernelOf(machine: Host): Kernel {
  return {
    canRead: () => true,
    kernel: 'sim',
    bootId: machine.bootId,
    textOf: () => null,
    lockHolder: (path) => machine.lockHolder(path),
  }
}
