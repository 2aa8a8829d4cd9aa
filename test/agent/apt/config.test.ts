/** The agent's configuration and its durable writes. */
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { checkAgentConfig, readAgentConfig } from '../../../agent/config.ts'
import {
  appendDurably,
  createExclusively,
  createRealDisk,
  type Disk,
  listNames,
  readIfExists,
  writeFileDurably,
} from '../../../agent/disk/disk.ts'
import { layoutOf, orderLayoutOf } from '../../../agent/disk/layout.ts'
import { RefusedError } from '../../../protocol/errors.ts'

t.test('[RUN-22] the configuration is checked whole: every error names file, line and key', async (t) => {
  const bad = checkAgentConfig(
    'coordinator = "http://x"\nstatedir = "/x"\n[limits]\nplan = "x"\ndead = 0\n[run]\nmode = "foo"\n',
    'agent.toml',
  )
  t.ok('refusals' in bad)
  t.same('refusals' in bad ? bad.refusals.map((one) => one.message.split(' ').slice(0, 2).join(' ')).toSorted() : [], [
    'agent.toml:1: coordinator',
    'agent.toml:2: statedir',
    'agent.toml:4: limits.plan',
    'agent.toml:5: limits.dead',
    'agent.toml:7: run.mode',
  ])
  t.match(checkAgentConfig('a = ', 'agent.toml'), { refusals: [{ message: /^agent.toml:1: / }] })
  t.match(checkAgentConfig('', 'agent.toml'), { coordinator: null }, 'the one of the enrolment')
  t.match(checkAgentConfig('coordinator = "https://h:7600"', 'f'), {
    stateDir: '/var/lib/smith',
    logFile: '/opt/smith-agent.log',
    aptRoot: null,
    limits: { lockWaitMs: 300_000 },
  })
  t.throws(() => readAgentConfig('/nowhere/agent.toml'), RefusedError)
})

const folder = mkdtempSync(join(tmpdir(), 'smith-disk-'))
t.teardown(() => rmSync(folder, { recursive: true }))

t.test('[RUN-23] a durable write is whole or not there at whatever call the crash comes', async (t) => {
  const disk = createRealDisk()
  const path = join(folder, 'file')
  /** Throws at the call of that number, as a crash would stop there. */
  const crashing = (at: number): Disk => {
    let calls = 0
    return new Proxy(disk, {
      get:
        (target, key: keyof Disk) =>
        (...args: never[]) => {
          calls += 1
          if (calls === at) throw new Error('crash')
          return (target[key] as (...all: never[]) => unknown)(...args)
        },
    })
  }
  for (let at = 1; at <= 8; at += 1) {
    disk.remove(path)
    t.equal(
      tryTo(() => createExclusively(crashing(at), path, 'claim')),
      at <= 6 ? 'crash' : true,
      `call ${at}`,
    )
    t.ok([null, 'claim'].includes(readIfExists(disk, path)?.toString() ?? null), `call ${at}`)
    const isThere = existsSync(path)
    t.equal(createExclusively(disk, path, 'void'), !isThere)
    t.equal(readFileSync(path, 'utf8'), isThere ? 'claim' : 'void')
    tryTo(() => writeFileDurably(crashing(at), path, 'new content', { mode: 0o600 }))
    t.ok([isThere ? 'claim' : 'void', 'new content'].includes(readFileSync(path, 'utf8')))
  }
  writeFileDurably(disk, path, 'a', { mode: 0o600 })
  appendDurably(disk, path, 'b')
  t.equal(readFileSync(path, 'utf8'), 'ab')
  t.same(listNames(disk, folder), ['file'])
})

function tryTo<T>(act: () => T): T | string {
  try {
    return act()
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

t.test('[RUN-24] a link is never followed, and no order id leaves its folder', async (t) => {
  const disk = createRealDisk()
  const target = join(folder, 'target')
  const link = join(folder, 'link')
  writeFileSync(target, 'secret')
  symlinkSync(target, link)
  t.throws(() => disk.read(link, 0, 10), { code: 'ELOOP' })
  t.throws(() => disk.write(link, Buffer.from('x'), 'append', 0o600), { code: 'ELOOP' })
  t.equal(disk.factsOf(link)?.kind, 'link')
  t.throws(() => orderLayoutOf(layoutOf(folder), '../../etc'))
})
