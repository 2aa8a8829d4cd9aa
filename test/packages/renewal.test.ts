/**
 * How a running agent takes up a new version of its package: by itself, and never while a run is at work, since that
 * may be the very run that upgrades it.
 */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { type Agent, createAgent } from '../../agent/agent.ts'
import { createRealDisk } from '../../agent/disk/disk.ts'
import { layoutOf, orderLayoutOf } from '../../agent/disk/layout.ts'
import { createOwnFiles, ownFolder } from '../../agent/own-files.ts'
import type { AgentPorts } from '../../agent/ports.ts'
import { LIMITS, makeState } from '../agent/session/machine.ts'
import {
  FACTS,
  MACHINE,
  ORDER,
  createFakeClock,
  createFakeLog,
  createFakeRandom,
  createKey,
} from '../sessions/fakes.ts'

const FOLDERS = ['/usr/lib/smith-agent/agent', '/usr/lib/smith-agent']

type World = {
  readonly agent: Agent
  readonly clock: ReturnType<typeof createFakeClock>
  readonly watched: Map<string, () => void>
  readonly files: ReturnType<typeof orderLayoutOf>
  replaced: boolean
  ends: number
}

function agentOf(t: Test): World {
  const layout = layoutOf(makeState(t))
  const clock = createFakeClock()
  const watched = new Map<string, () => void>()
  const ports: AgentPorts = {
    clock,
    random: createFakeRandom(1),
    disk: createRealDisk(),
    layout,
    log: createFakeLog(),
    identity: { machine: MACHINE, name: 'web-1', instance: 'prod', sign: createKey().sign },
    limits: LIMITS,
    connect: () => ({ send: () => {}, close: () => {}, terminate: () => {}, bufferedBytes: () => 0 }),
    describe: () => ({ facts: FACTS, bootId: 'b', builds: ['prod'], template: false, impediment: null }),
    plan: () => () => {},
    prefetch: () => () => {},
    startRunner: null,
    watch: (folder, onChange) => {
      watched.set(folder, onChange)
      return () => watched.delete(folder)
    },
    ownFiles: { folders: FOLDERS, areReplaced: () => world.replaced },
  }
  const onOutdated = () => {
    world.ends += 1
    world.agent.stop()
  }
  const files = orderLayoutOf(layout, ORDER)
  const agent = createAgent(ports, () => {}, onOutdated)
  const world: World = { agent, clock, watched, files, replaced: false, ends: 0 }
  t.teardown(() => agent.stop())
  return world
}
type Test = Parameters<typeof makeState>[0]

t.test('[PKG-16] an idle agent whose files were replaced ends once they are all in place, and only then', async (t) => {
  const world = agentOf(t)
  world.agent.start()
  t.strictSame([...world.watched.keys()].toSorted(), FOLDERS.toSorted(), 'the kernel tells; nothing is polled')
  world.watched.get('/usr/lib/smith-agent')?.()
  world.clock.advance(10_000)
  t.equal(world.ends, 0, 'a sign without a change')
  world.replaced = true
  world.watched.get('/usr/lib/smith-agent')?.()
  world.clock.advance(4_000)
  world.watched.get('/usr/lib/smith-agent/agent')?.()
  world.clock.advance(4_000)
  t.equal(world.ends, 0, 'files were still coming')
  world.clock.advance(2_000)
  t.equal(world.ends, 1)
  t.equal(world.watched.size, 0)
})

t.test('[PKG-17] an agent whose files were replaced stays for as long as a run is at work', async (t) => {
  const world = agentOf(t)
  mkdirSync(world.files.folder, { recursive: true })
  writeFileSync(world.files.fate, JSON.stringify({ fate: 'claim', fence: 1, at: 1 }))
  writeFileSync(world.files.grant, '{}')
  world.agent.start()
  world.replaced = true
  world.watched.get('/usr/lib/smith-agent')?.()
  world.clock.advance(600_000)
  t.equal(world.ends, 0)
  const result = {
    n: 1,
    at: 2,
    type: 'result',
    step: 'verify',
    outcome: 'succeeded',
    cause: null,
    message: 'done',
    evidence: [],
    advice: [],
    latched: true,
    rebootPending: false,
    installed: [],
    outputBytes: 0,
    outputSha256: '0'.repeat(64),
  }
  writeFileSync(world.files.records, `${JSON.stringify(result)}\n`)
  world.clock.advance(10_000)
  t.equal(world.ends, 1, 'and ends after it')
})

t.test(
  '[PKG-18] a package manager’s new file is another one, also with the same content; a missing one too',
  async (t) => {
    const dir = t.testdir({ agent: { 'main.mjs': 'a' }, 'package.json': '{}', node: 'x' })
    const isReplacedAfter = (change: () => void) => {
      const own = createOwnFiles(join(dir, 'agent'))
      const before = own.areReplaced()
      change()
      return [before, own.areReplaced()]
    }
    for (const name of ['agent/main.mjs', 'package.json', 'node']) {
      const path = join(dir, name)
      const upgrade = () => {
        writeFileSync(`${path}.dpkg-new`, 'a')
        renameSync(`${path}.dpkg-new`, path)
      }
      t.strictSame(isReplacedAfter(upgrade), [false, true], name)
      t.strictSame(
        isReplacedAfter(() => rmSync(path)),
        [false, true],
        `${name} removed`,
      )
    }
    t.equal(ownFolder(), null, 'a checkout does not watch itself')
  },
)
