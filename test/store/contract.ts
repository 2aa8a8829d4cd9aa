/**
 * What every store must do, whatever it is made of. store.test.ts runs it once for each store: a rule that only one
 * of them keeps would make the simulator prove things about a store that is not the one in use.
 */
import type { Store } from '../../coordinator/ports.ts'
import { TABLES, type Write } from '../../coordinator/domain/state.ts'
import type { Test } from 'tap'
import { compareText } from '../../protocol/natural-order.ts'
import { ledgerContract } from './ledger/contract.ts'
import { T0, append, bag, id, instance, line, lineRecord, machine, order, project, put, target, turn } from './rows.ts'

export type StoreUnderTest = {
  /** Opens the store; the same one each time within a test. */
  readonly open: () => Store
  /** Opens what a crash at this instant would leave, while the first stays as it is. */
  readonly crash: () => Store
  /** Opens a backup. */
  readonly openBackup: (path: string) => Store
  readonly folder: string
}

type Make = (t: Test) => StoreUnderTest

export function contract(t: Test, make: Make): void {
  rowContract(t, make)
  queryContract(t, make)
  uniqueContract(t, make)
  changeContract(t, make)
  journalContract(t, make)
  recordContract(t, make)
  outboxContract(t, make)
  appendContract(t, make)
  lifeContract(t, make)
  ledgerContract(t, make)
}

const newestOf = (store: Store) => ({
  rev: store.rev(),
  at: store.lastAt(),
  rows: [...store.load()].toSorted((a, b) => (a.table + a.key < b.table + b.key ? -1 : 1)),
})

/** The turn throws, and nothing of it is there. */
function refuses(t: Test, store: Store, writes: readonly Write[], message: RegExp): void {
  const before = newestOf(store)
  t.throws(() => store.commit(turn(store.rev() + 1, [...writes, put.instance(instance({ task: 77 }))])), {
    kind: 'conflict',
    message,
  })
  t.same(newestOf(store), before, 'nothing changed')
}

function rowContract(t: Test, make: Make): void {
  t.test('[STO-1] a committed turn is readable whole, and a row comes back as it was written', async (tt) => {
    const store = make(tt).open()
    tt.equal(store.rev(), 0)
    tt.equal(store.lastAt(), 0)
    tt.match(store.epoch, /^[0-9a-f]{32}$/)
    const a = machine('a', { builds: ['prod', '725'], lastSeenAt: T0 })
    await store.commit(turn(1, [put.machine(a), put.project(project('p'))]))
    tt.same(store.get('machines', a.id), a)
    tt.same(store.get('projects', id('p')), project('p'))
    tt.equal(store.get('machines', id('nobody')), undefined)
    tt.equal(store.rev(), 1)
    tt.equal(store.lastAt(), T0 + 1)
    tt.same([...store.load()].map(({ table, key }) => `${table} ${key}`).toSorted(compareText), [
      `machines ${a.id}`,
      `projects ${id('p')}`,
    ])
  })

  t.test('[STO-2] a row that is not live leaves load and stays readable', async (tt) => {
    const store = make(tt).open()
    await store.commit(turn(1, [put.order(order('o')), put.target(target('p', 0))]))
    await store.commit(
      turn(2, [
        put.order(order('o', { state: 'cancelled' }), false),
        put.target(target('p', 0, { state: 'cancelled' }), false),
      ]),
    )
    tt.same([...store.load()], [])
    tt.equal(store.get('orders', id('o'))?.state, 'cancelled')
    tt.equal(store.list('targets', `${id('p')}/`).length, 1)
    tt.equal(store.orders({ project: id('p') }).length, 1)
  })

  t.test('[STO-2] plans are in the store only, and what is not stored is ignored', async (tt) => {
    const store = make(tt).open()
    const hash = 'ab'.repeat(32)
    const plan = {
      v: 1 as const,
      build: 'prod',
      arch: 'amd64',
      installs: [],
      removes: [],
      repairs: [],
      holds: [],
      rebootDue: false,
      conffiles: 'keep' as const,
    }
    const evidence = { releases: [], downloadBytes: 0, installedBytesDelta: 0, madeAt: T0 }
    const session = {
      machine: id('a'),
      session: id('s'),
      address: '127.0.0.1',
      since: T0,
      bootId: '0',
      incarnation: id('i'),
      impediment: null,
      orders: [],
    }
    await store.commit(
      turn(1, [
        { table: 'plans', key: hash, row: { hash, plan, evidence }, live: true },
        { table: 'sessions', key: id('a'), row: session, live: true },
      ]),
    )
    tt.same([...store.load()], [])
    tt.same(store.get('plans', hash), { hash, plan, evidence })
    tt.equal(store.get('sessions', id('a')), undefined)
    tt.same(store.list('sessions', ''), [])
  })

  t.test('[STO-1] a row of each table is stored, changed and deleted', async (tt) => {
    const store = make(tt).open()
    const known: Partial<Record<keyof typeof TABLES, Write>> = {
      instance: put.instance(instance()),
      machines: put.machine(machine('a')),
      projects: put.project(project('p')),
      orders: put.order(order('o')),
      lines: put.line(line('cluster:c')),
    }
    const tables = (Object.keys(TABLES) as (keyof typeof TABLES)[]).filter((table) => TABLES[table].stored)
    const writes = tables.map(
      (table) => known[table] ?? ({ table, key: 'k', row: { x: table }, live: true } as unknown as Write),
    )
    await store.commit(turn(1, writes))
    for (const write of writes) tt.same(store.get(write.table, write.key), write.row, write.table)
    await store.commit(
      turn(
        2,
        writes.filter((write) => write.table !== 'instance').map((write) => ({ ...write, row: null, live: false })),
      ),
    )
    for (const write of writes)
      tt.same(store.get(write.table, write.key), write.table === 'instance' ? instance() : undefined, write.table)
  })

  t.test('[STO-1] the last write of a key counts, and the order of writes within a turn does not', async (tt) => {
    const store = make(tt).open()
    const running = order('o1', { state: 'running', fence: 1 })
    await store.commit(turn(1, [put.order(order('o1', { state: 'failed' })), put.order(running)]))
    tt.equal(store.get('orders', id('o1'))?.state, 'running')
    await store.commit(
      turn(2, [put.order(order('o2', { state: 'granted', fence: 2 })), put.order({ ...running, state: 'succeeded' })]),
    )
    tt.equal(store.get('orders', id('o2'))?.state, 'granted')
    tt.equal(store.get('orders', id('o1'))?.state, 'succeeded')
  })
}

function queryContract(t: Test, make: Make): void {
  t.test('[STO-1] list gives the rows under a prefix by key', async (tt) => {
    const store = make(tt).open()
    await store.commit(
      turn(
        1,
        [10, 2, 0]
          .map((index) => put.target(target('p', index)))
          .concat(put.target(target('q', 1)), put.bag(bag('p', 3))),
      ),
    )
    tt.same(
      store.list('targets', `${id('p')}/`).map((row) => row.index),
      [0, 2, 10],
    )
    tt.equal(store.list('targets', '').length, 4)
    tt.same(store.list('targets', 'zz'), [])
  })

  t.test('[STO-3] projects come newest first, orders in the order in which they were made', async (tt) => {
    const store = make(tt).open()
    await store.commit(
      turn(
        1,
        ['p1', 'p2', 'p3', 'p4'].map((name, index) =>
          put.project(project(name, { createdAt: T0 + Math.min(index, 2) })),
        ),
      ),
    )
    const names = (query: { limit: number; before?: number }) =>
      store.projects(query).map((row) => Buffer.from(row.id, 'hex').toString().slice(0, 2))
    tt.same(names({ limit: 10 }), ['p4', 'p3', 'p2', 'p1'])
    tt.same(names({ limit: 2 }), ['p4', 'p3'])
    tt.same(names({ limit: 10, before: T0 + 2 }), ['p2', 'p1'])
    await store.commit(turn(2, [put.order(order('z')), put.order(order('y', { project: id('p1') }))]))
    await store.commit(turn(3, [put.order(order('x')), put.order(order('w', { machine: id('b') }))]))
    await store.commit(turn(4, [put.order(order('z', { state: 'cancelled' }))]))
    tt.same(
      store.orders({ machine: id('a') }).map((row) => row.id),
      [id('z'), id('y'), id('x')],
    )
    tt.same(
      store.orders({ project: id('p') }).map((row) => row.id),
      [id('z'), id('x'), id('w')],
    )
  })

  t.test('[STO-4] what goes in or comes out is shared with nobody', async (tt) => {
    const store = make(tt).open()
    const builds = ['prod']
    await store.commit(turn(1, [put.machine(machine('a', { builds }))]))
    builds.push('changed from outside')
    const readBuilds = store.get('machines', id('a'))?.builds as string[] | undefined
    const readFacts = store.journal({ since: 0, limit: 1 })[0]?.facts as unknown[] | undefined
    readBuilds?.push('changed by a reader')
    readFacts?.push('changed by a reader')
    tt.same(store.get('machines', id('a'))?.builds, ['prod'])
    tt.equal(store.journal({ since: 0, limit: 1 })[0]?.facts.length, 1)
  })
}

function uniqueContract(t: Test, make: Make): void {
  for (const state of ['granted', 'running', 'unknown'] as const) {
    t.test(`[STO-5] a machine with an order that is ${state} gets no second one`, async (tt) => {
      const store = make(tt).open()
      await store.commit(
        turn(1, [put.order(order('o1', { state, fence: 1 })), put.order(order('o2', { project: id('q') }))]),
      )
      for (const second of ['granted', 'running', 'unknown'] as const) {
        refuses(tt, store, [put.order(order('o2', { project: id('q'), state: second, fence: 2 }))], /UNIQUE.*machine/)
      }
    })
    t.test(`[STO-5] a project with an order that is ${state} gets no second one`, async (tt) => {
      const store = make(tt).open()
      await store.commit(
        turn(1, [put.order(order('o1', { state, fence: 1 })), put.order(order('o2', { machine: id('b') }))]),
      )
      refuses(tt, store, [put.order(order('o2', { machine: id('b'), state: 'granted', fence: 2 }))], /UNIQUE.*project/)
    })
  }

  t.test(
    '[STO-5] a line in use passes to no other machine or project, and freed in a turn of its own it does',
    async (tt) => {
      const store = make(tt).open()
      await store.commit(turn(1, [put.line(line('cluster:c'))]))
      refuses(tt, store, [put.line(line('cluster:c', { machine: id('b') }))], /line .*in use/)
      refuses(tt, store, [put.line(line('cluster:c', { project: id('q') }))], /line .*in use/)
      await store.commit(turn(2, [put.line(line('cluster:c', { order: id('retry') }))]))
      await store.commit(turn(3, [put.noLine('cluster:c')]))
      await store.commit(turn(4, [put.line(line('cluster:c', { machine: id('b') }))]))
      tt.equal(store.get('lines', 'cluster:c')?.machine, id('b'))
    },
  )

  t.test('[STO-6] a fence is given once, ever', async (tt) => {
    const store = make(tt).open()
    await store.commit(turn(1, [put.order(order('o1', { state: 'succeeded', fence: 7 }))]))
    refuses(tt, store, [put.order(order('o2', { state: 'granted', fence: 7 }))], /UNIQUE.*fence/)
    await store.commit(
      turn(2, [put.order(order('o2', { state: 'granted', fence: 8 })), put.order(order('o3')), put.order(order('o4'))]),
    )
  })

  t.test('[STO-7] a change number, and the name of an active machine, are given once', async (tt) => {
    const store = make(tt).open()
    await store.commit(
      turn(1, [
        put.project(project('p', { change: 'CHG0000001' })),
        put.machine(machine('a')),
        put.project(project('r')),
        put.project(project('s')),
      ]),
    )
    refuses(tt, store, [put.project(project('q', { change: 'CHG0000001' }))], /UNIQUE.*change/)
    refuses(tt, store, [put.machine(machine('a', { id: id('a2') }))], /UNIQUE.*(name|machine a)/)
    await store.commit(
      turn(2, [put.machine(machine('a', { id: id('a2') })), put.machine(machine('a', { state: 'retired' }))]),
    )
    tt.equal(store.get('machines', id('a2'))?.state, 'active')
  })
}

function changeContract(t: Test, make: Make): void {
  t.test('[STO-6] an order is granted once and ends once', async (tt) => {
    const store = make(tt).open()
    await store.commit(turn(1, [put.order(order('o1', { state: 'granted', fence: 3 }))]))
    refuses(tt, store, [put.order(order('o1', { state: 'granted', fence: 4 }))], /keeps its fence/)
    refuses(tt, store, [{ table: 'orders', key: id('o1'), row: null, live: false }], /can.{1,3}t be deleted/)
    for (const state of ['unknown', 'running', 'unknown', 'failed', 'succeeded'] as const) {
      await store.commit(turn(store.rev() + 1, [put.order(order('o1', { state, fence: 3 }))]))
    }
    for (const state of ['offered', 'granted', 'running', 'unknown'] as const) {
      refuses(tt, store, [put.order(order('o1', { state, fence: 3 }))], /ended/)
    }
  })

  t.test('[STO-6] the counters of the instance only rise, and its row stays', async (tt) => {
    const store = make(tt).open()
    await store.commit(turn(1, [put.instance(instance({ fence: 5, change: 5, task: 99 }))]))
    for (const lower of [{ fence: 4 }, { change: 4 }, { task: 98 }]) {
      const writes = [put.instance(instance({ fence: 5, change: 5, task: 99, ...lower }))]
      tt.throws(() => store.commit(turn(2, writes)), { kind: 'conflict', message: /only rise/ })
    }
    tt.throws(() => store.commit(turn(2, [{ table: 'instance', key: 'instance', row: null, live: false }])), {
      name: 'StoreError',
      kind: 'conflict',
    })
    await store.commit(turn(2, [put.instance(instance({ fence: 6, change: 5, task: 99 }))]))
    tt.equal(store.get('instance', 'instance')?.fence, 6)
  })
}

function journalContract(t: Test, make: Make): void {
  t.test('[STO-8] the journal gives rows after a revision, in order, at most so many', async (tt) => {
    const store = make(tt).open()
    for (const rev of [1, 2, 3, 4, 5]) await store.commit(turn(rev))
    const revs = (since: number, limit: number) => store.journal({ since, limit }).map((row) => row.rev)
    tt.same(revs(0, 100), [1, 2, 3, 4, 5])
    tt.same(revs(2, 2), [3, 4])
    tt.same(revs(5, 10), [])
    tt.same(store.journal({ since: 1, limit: 1 }), [turn(2).row])
  })

  t.test('[STO-8] a turn that does not follow the newest row, or goes back in time, is refused', async (tt) => {
    const store = make(tt).open()
    await store.commit(turn(1, [], [], T0 + 50))
    for (const wrong of [
      turn(1, [], [], T0 + 50),
      turn(3, [], [], T0 + 50),
      turn(2, [], [], T0 + 49),
      { ...turn(2, [], [], T0 + 50), row: turn(1).row },
    ]) {
      tt.throws(() => store.commit(wrong), { kind: 'conflict', message: /journal row/ })
    }
    await store.commit(turn(2, [], [], T0 + 50))
    tt.equal(store.rev(), 2)
    tt.equal(store.lastAt(), T0 + 50)
  })
}

function recordContract(t: Test, make: Make): void {
  t.test('[STO-9] records are paged by number over batches of any size', async (tt) => {
    const store = make(tt).open()
    let from = 1
    for (const count of [1, 1, 250, 3, 100]) {
      await store.commit(turn(store.rev() + 1, [], [append('o', from, count), append(`other-${from}`, 1, 2)]))
      from += count
    }
    const numbers = (after: number, limit: number) =>
      store.records({ order: id('o'), after, limit }).map((record) => record.n)
    const range = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, index) => first + index)
    tt.same(numbers(0, 1000), range(1, 355))
    for (const [after, limit] of [
      [0, 1],
      [1, 1],
      [2, 5],
      [100, 60],
      [251, 4],
      [252, 2],
      [354, 10],
      [355, 10],
      [900, 10],
      [0, 0],
    ] as const) {
      tt.same(
        numbers(after, limit),
        range(after + 1, Math.min(after + limit, 355)).filter((n) => n > after),
        `after ${after}, ${limit}`,
      )
    }
    tt.same(store.records({ order: id('o'), after: 251, limit: 1 }), [lineRecord(252)])
    tt.same(store.records({ order: id('nobody'), after: 0, limit: 10 }), [])
  })

  t.test('[STO-9] every kind of record, every character and a long line come back byte for byte', async (tt) => {
    const store = make(tt).open()
    const records = [
      { n: 1, at: T0, type: 'step', step: 'claim' },
      lineRecord(2, `\u001b[31m\u0000 grüß 😀 \u2028 ${'x'.repeat(8000)}\r\n`),
      { n: 3, at: T0, type: 'line', step: 'install', offset: 9, base64: '/////w==' },
      { n: 4, at: T0, type: 'hole', offset: 13, bytes: 5, reason: 'power-cut' },
    ] as const
    await store.commit(turn(1, [], [{ order: id('o'), from: 1, records }]))
    tt.same(store.records({ order: id('o'), after: 0, limit: 10 }), records)
  })
}

function outboxContract(t: Test, make: Make): void {
  t.test('[SCD-7] a schedule with its firings is what the turn wrote, after a crash too', async (tt) => {
    const under = make(tt)
    const firings = [{ at: T0, by: 'ana', what: 'asked', request: id('r'), reasons: ['\u0000é'] }] as const
    const row = { name: 'n', id: id('s'), cron: '* * * * *', text: 'x', by: 'ana', createdAt: T0, next: null, firings }
    await under.open().commit(turn(1, [{ table: 'schedules', key: 'n', row, live: true }]))
    tt.same([...under.crash().load()], [{ table: 'schedules', key: 'n', row }])
  })
  t.test(
    '[SNW-32] a call stands in the outbox exactly when its turn is committed, and in its place after a crash',
    async (tt) => {
      const under = make(tt)
      const store = under.open()
      const call = { call: 'close', project: id('p'), change: 'CHG0000001', code: 'successful', notes: '' } as const
      const row = (place: number) => ({ project: id('p'), place, at: T0, call })
      const key = (place: number) => `${id('p')}/${String(place).padStart(6, '0')}`
      const puts = [10, 2].map((place): Write => ({ table: 'outbox', key: key(place), row: row(place), live: true }))
      await store.commit(turn(1, puts))
      tt.throws(() =>
        store.commit(turn(2, [{ table: 'outbox', key: key(11), row: row(11), live: true }], [append('o', 9, 1)])),
      )
      const after = under.crash()
      tt.same(
        after.list('outbox', `${id('p')}/`).map((one) => one.place),
        [2, 10],
      )
      tt.same([...after.load()].map((live) => live.key).toSorted(compareText), [key(2), key(10)])
      await after.commit(turn(2, [{ table: 'outbox', key: key(2), row: null, live: false }]))
      tt.same(
        [...after.load()].map((live) => live.key),
        [key(10)],
      )
    },
  )
}

function appendContract(t: Test, make: Make): void {
  t.test(
    '[STO-9] an append with a gap, a repeat or a wrong number is refused and nothing of its turn stays',
    async (tt) => {
      const store = make(tt).open()
      await store.commit(turn(1, [], [append('o', 1, 3)]))
      const wrongNumbers = { order: id('o'), from: 4, records: [lineRecord(4), lineRecord(6)] }
      for (const wrong of [
        append('o', 5, 1),
        append('o', 3, 2),
        append('o', 1, 3),
        append('new', 2, 1),
        wrongNumbers,
      ]) {
        tt.throws(() => store.commit(turn(2, [put.order(order('o'))], [wrong])), {
          name: 'StoreError',
          kind: 'conflict',
        })
      }
      tt.throws(() => store.commit(turn(2, [put.order(order('o'))], [append('o', 4, 2), append('o', 7, 1)])), {
        name: 'StoreError',
        kind: 'conflict',
      })
      tt.equal(store.records({ order: id('o'), after: 0, limit: 100 }).length, 3)
      tt.equal(store.get('orders', id('o')), undefined)
      await store.commit(turn(2, [], [append('o', 4, 2), append('o', 6, 1)]))
      tt.equal(store.records({ order: id('o'), after: 0, limit: 100 }).length, 6)
    },
  )
}

function lifeContract(t: Test, make: Make): void {
  t.test('[STO-10] a crash at any turn keeps every committed turn and nothing else', async (tt) => {
    const under = make(tt)
    const store = under.open()
    for (const rev of [1, 2, 3]) await store.commit(turn(rev, [put.order(order(`o${rev}`))], [append('o', rev, 1)]))
    tt.throws(() => store.commit(turn(4, [put.order(order('o4'))], [append('o', 9, 1)])))
    const after = under.crash()
    tt.same([after.rev(), after.lastAt(), after.epoch], [3, T0 + 3, store.epoch])
    tt.equal(after.records({ order: id('o'), after: 0, limit: 10 }).length, 3)
    tt.equal([...after.load()].length, 3)
    tt.same(
      after.orders({ project: id('p') }).map((row) => row.id),
      [id('o1'), id('o2'), id('o3')],
    )
    await after.commit(turn(4, [put.order(order('o4'))], [append('o', 4, 1)]))
  })

  t.test('[STO-11] a second opener is refused, and let in when the first has closed', async (tt) => {
    const under = make(tt)
    const store = under.open()
    await store.commit(turn(1))
    tt.throws(() => under.open(), { name: 'RefusedError', message: /another process has .* open/ })
    await store.commit(turn(2))
    store.close()
    tt.throws(() => store.commit(turn(3)), { name: 'StoreError', kind: 'closed' })
    tt.equal(under.open().rev(), 2)
  })

  t.test('[STO-13] a backup holds all turns until then, and never replaces a file', async (tt) => {
    const under = make(tt)
    const store = under.open()
    await store.commit(turn(1, [put.machine(machine('a'))], [append('o', 1, 300)]))
    await store.backup(`${under.folder}/copy`)
    await store.commit(turn(2, [put.machine(machine('b'))]))
    await tt.rejects(async () => store.backup(`${under.folder}/copy`))
    const copy = under.openBackup(`${under.folder}/copy`)
    const count = copy.records({ order: id('o'), after: 0, limit: 1000 }).length
    tt.same([copy.rev(), copy.epoch, count], [1, store.epoch, 300])
    tt.same(copy.get('machines', id('a')), machine('a'))
    await copy.commit(turn(2, [put.machine(machine('c'))]))
    tt.equal(store.rev(), 2)
  })
}
