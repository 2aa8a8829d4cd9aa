/** The driver: nothing is said before it is committed, one turn at a time, a clock that never goes back, a timer that fires. */
import t from 'tap'
import type { FeedRow } from '../../protocol/feed.ts'
import { isLocal, localStep } from '../../coordinator/change/local.ts'
import type { Command, Event } from '../../coordinator/domain/events.ts'
import { step } from '../../coordinator/domain/step.ts'
import { createDriver } from '../../coordinator/driver.ts'
import { createTools } from '../../coordinator/pattern.ts'
import type { Store, Turn } from '../../coordinator/ports.ts'
import { createMemoryStore } from '../../coordinator/store/memory.ts'
import { createDice } from '../sim/random.ts'
import { createTime } from '../sim/time.ts'
import { PEOPLE, SETTINGS, START, must } from './harness.ts'

const QUIET = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
const enrol = (name: string): Event => ({
  type: 'command',
  command: { type: 'enrolNew', name, tokenHash: name.padEnd(64, '0'), ttlMs: 1000, replace: false },
})
const freeze: Event = { type: 'command', command: { type: 'freeze', reason: 'x' } satisfies Command }

type Fields = {
  readonly commit?: (turn: Turn, store: Store) => void | Promise<void>
  readonly core?: typeof step
  readonly skewMs?: () => number
}

function make(fields: Fields = {}) {
  const time = createTime(START)
  const dice = createDice(1, 'driver')
  const inner = createMemoryStore(dice)
  const log: string[] = []
  const rows: FeedRow[] = []
  const fatal: Error[] = []
  const store: Store = {
    ...inner,
    commit: (turn) => {
      log.push(`commit ${turn.rev}`)
      return (fields.commit ?? ((given: Turn, kept: Store) => kept.commit(given)))(turn, inner)
    },
  }
  const driver = createDriver({
    store,
    clock: { wallNow: () => time.now() + (fields.skewMs?.() ?? 0), monotonicNow: time.now, after: time.after },
    tools: createTools(SETTINGS, dice),
    settings: SETTINGS,
    log: QUIET,
    outbound: {
      toAgent: (send) => log.push(`send ${send.machine}`),
      toChange: (call) => log.push(`change ${call.call}`),
    },
    ...(fields.core === undefined ? {} : { core: fields.core }),
    local: { isLocal, step: localStep },
    onFatal: (error) => fatal.push(error),
  })
  driver.onRow((row) => {
    log.push(`row ${row.rev}`)
    rows.push(row)
  })
  return { driver, store: inner, time, log, rows, fatal }
}

/** A core that also sends something to a machine in every turn. */
const talking: typeof step = (view, envelope, tools) => {
  const outcome = step(view, envelope, tools)
  return { ...outcome, sends: [...outcome.sends, { to: 'agent', machine: 'm', frame: { t: 'ping', n: 1 } }] }
}

t.test('[DRV-1] a turn is committed before anything of it is sent, shown or answered', async (t) => {
  const { driver, log } = make({ core: talking })
  const { rev } = await driver.submit(PEOPLE.cy, enrol('a'))
  log.push(`answer ${rev}`)
  t.strictSame(log, ['commit 1', 'send m', 'row 1', 'answer 1'])
})

t.test(
  '[DRV-2] a commit that fails ends the coordinator: nothing sent, nothing answered, nothing taken any more',
  async (t) => {
    for (const isAsync of [false, true]) {
      const { driver, log, fatal, store } = make({
        core: talking,
        commit: (turn, kept) => {
          if (turn.rev < 2) return kept.commit(turn)
          if (isAsync) return Promise.reject(new Error('no space left'))
          throw new Error('no space left')
        },
      })
      await driver.submit(PEOPLE.cy, enrol('a'))
      log.length = 0
      const waiting = [driver.submit(PEOPLE.cy, enrol('b')), driver.submit(PEOPLE.cy, enrol('c'))]
      for (const one of waiting) await t.rejects(one, { message: 'no space left' })
      await t.rejects(driver.submit(PEOPLE.cy, enrol('d')), { message: 'no space left' })
      t.strictSame(log, ['commit 2'])
      t.equal(fatal.length, 1)
      t.equal(driver.view.size('enrolments'), 1, 'what was not committed was not applied')
      t.equal(store.rev(), 1)
      await driver.stop()
    }
  },
)

t.test('[DRV-2] a turn that would break an invariant is not committed', async (t) => {
  const { driver, log, fatal } = make({
    core: (view, envelope, tools) => {
      const outcome = step(view, envelope, tools)
      const line = { key: 'project:p', project: 'p', target: 0, order: 'o', machine: 'm', since: 0 }
      return { ...outcome, writes: [...outcome.writes, { table: 'lines', key: line.key, row: line, live: true }] }
    },
  })
  await t.rejects(driver.submit(PEOPLE.cy, enrol('a')), { message: /SER-1/ })
  t.strictSame(log, [])
  t.match(fatal, [{ message: /SER-1/ }])
})

t.test('[DRV-3] one turn in flight: the next begins when the one before is committed and applied', async (t) => {
  const open: (() => void)[] = []
  const { driver, log, store } = make({
    commit: (turn, kept) =>
      new Promise((resolve) => {
        open.push(() => {
          void kept.commit(turn)
          resolve()
        })
      }),
  })
  const answers = ['a', 'b', 'c'].map((name) => driver.submit(PEOPLE.cy, enrol(name)))
  for (let turn = 1; turn <= 3; turn += 1) {
    t.equal(open.length, turn)
    t.equal(log.filter((line) => line.startsWith('row')).length, turn - 1)
    must(open[turn - 1])()
    t.equal((await must(answers[turn - 1])).rev, turn)
    t.equal(driver.view.size('enrolments'), turn)
    await new Promise((resolve) => setImmediate(resolve))
  }
  t.equal(store.rev(), 3)
  t.strictSame(log, ['commit 1', 'row 1', 'commit 2', 'row 2', 'commit 3', 'row 3'])
})

t.test('[DRV-4] rows are numbered without a gap, and a turn that changed nothing leaves none', async (t) => {
  const { driver, rows, store } = make()
  await driver.start()
  await driver.submit(PEOPLE.cy, enrol('a'))
  const { rev } = await driver.submit({ kind: 'smith' }, { type: 'tick' })
  t.equal(rev, 2)
  const revoke = { type: 'command', command: { type: 'enrolRevoke', name: 'b' } } as const
  t.match(await driver.submit(PEOPLE.cy, revoke), { rev: 2, reply: { ok: false } })
  await driver.submit(PEOPLE.cy, freeze)
  t.strictSame(
    rows.map((row) => row.rev),
    [1, 2, 3],
  )
  t.strictSame(
    rows.map((row) => row.actor),
    ['smith', 'cy', 'cy'],
  )
  t.strictSame(store.journal({ since: 0, limit: 9 }), rows)
})

t.test('[DRV-5] the clock never goes back, and follows a wall clock that jumps ahead', async (t) => {
  let skew = 0
  const { driver, time, rows } = make({ skewMs: () => skew })
  const pass = async (ms: number) => {
    time.after(ms, () => {})
    time.advance()
    await driver.submit(PEOPLE.cy, enrol(`m${rows.length}`))
    return must(rows.at(-1)).at
  }
  t.equal(await pass(1000), START + 1000)
  skew = -3_600_000
  t.equal(await pass(1000), START + 2000, 'a wall clock set back is not followed')
  skew = 3_600_000
  t.equal(await pass(1000), START + 3000 + 3_600_000)
  skew = 0
  t.equal(await pass(1000), START + 4000 + 3_600_000, 'nor is it when it comes back from ahead')
})

t.test('[DRV-5] a coordinator that starts with a wall clock behind its journal goes on after it', async (t) => {
  const { driver, store, rows } = make({ skewMs: () => 0 })
  await driver.submit(PEOPLE.cy, enrol('a'))
  const behind = createDriver({
    store,
    clock: { wallNow: () => START - 1e9, monotonicNow: () => 5, after: () => () => {} },
    tools: createTools(SETTINGS, createDice(2, 'again')),
    settings: SETTINGS,
    log: QUIET,
    outbound: { toAgent: () => {}, toChange: () => {} },
    onFatal: (error) => t.fail(error),
  })
  await behind.start()
  t.ok(behind.now() >= must(rows[0]).at)
})

t.test('[DRV-6] the timer fires though other turns keep coming, and an idle coordinator has none', async (t) => {
  const { driver, time } = make()
  t.equal(time.advance(), false, 'nothing is due')
  const dice = createDice(3, 'project')
  const withPending: Command = { type: 'request', text: 'prod machines: a outage:0', preview: false, key: null }
  t.match(await driver.submit(PEOPLE.ana, { type: 'command', command: withPending }), { reply: { ok: false } })
  t.equal(time.advance(), false)
  const facts = {
    agentVersion: 'x',
    os: 'x',
    arch: 'amd64',
    kernel: 'x',
    apt: 'x',
    cluster: null,
    region: null,
    rebootPending: false,
  }
  await driver.submit(PEOPLE.cy, enrol('a'))
  const { reply } = await driver.submit(
    { kind: 'smith' },
    { type: 'enrol', tokenHash: 'a'.padEnd(64, '0'), publicKey: 'k', facts, address: '::1' },
  )
  const machine = must(reply.ok ? reply.value?.machine : undefined)
  const hello = {
    t: 'hello',
    name: 'a',
    facts,
    bootId: 'b',
    incarnation: dice.hex(32),
    fence: 0,
    at: 1,
    builds: ['prod'],
    template: false,
    impediment: null,
    orders: [],
  } as const
  await driver.submit(
    { kind: 'machine', id: machine, name: 'a' },
    {
      type: 'sessionOpened',
      machine,
      session: dice.hex(32),
      address: '::1',
      counter: 1,
      hello: { ...hello, builds: ['prod'], orders: [] },
    },
  )
  const asked = await driver.submit(PEOPLE.ana, { type: 'command', command: withPending })
  const request = must(asked.reply.ok ? asked.reply.value?.request : undefined)
  const deadline = time.now() + SETTINGS.limits.planTimeMsMax
  for (let turn = 0; turn < 100 && driver.view.get('requests', request) !== undefined; turn += 1) {
    // Something happens every second, as on a busy instance.
    time.after(1000, () => {})
    time.advance()
    await driver.submit(PEOPLE.cy, { type: 'command', command: { type: 'enrolRevoke', name: 'nosuch' } })
  }
  t.match(driver.view.archived('requests', request), { state: 'refused', refusals: [{ kind: 'cannot-plan' }] })
  t.ok(time.now() <= deadline + 2000)
})

t.test('[DRV-7] stop answers what was asked before and begins nothing after', async (t) => {
  const { driver, log, store } = make()
  const before = driver.submit(PEOPLE.cy, enrol('a'))
  const stopped = driver.stop()
  const after = driver.submit(PEOPLE.cy, enrol('b'))
  t.match(await before, { rev: 1 })
  await t.rejects(after, { message: /stopping|stopped/ })
  await stopped
  await t.rejects(driver.submit(PEOPLE.cy, enrol('c')), { message: /stopped/ })
  t.equal(store.rev(), 1)
  t.strictSame(log, ['commit 1', 'row 1'])
  await driver.stop()
})

t.test('[DRV-4] a listener that has ended hears no more', async (t) => {
  const { driver } = make()
  const heard: number[] = []
  const end = driver.onRow((row) => heard.push(row.rev))
  await driver.submit(PEOPLE.cy, enrol('a'))
  end()
  await driver.submit(PEOPLE.cy, enrol('b'))
  t.strictSame(heard, [1])
})
