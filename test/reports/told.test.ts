/** Where a health report that was made by itself is told: the feed, the task of the change, the machine's thread. */
import t from 'tap'
import type { ReportView } from '../../protocol/report.ts'
import { createChatWorld, runOf } from '../chat/world.ts'

const REPORT = 'ab'.repeat(16)
const SUMMARY =
  '# prod-dal10-web-1: failed at install (maintainer-script)\n\n**Cause (maintainer-script)**: <demo> & friends\n'

t.test('[RPT-14] the feed, the note of the task and the thread of the machine tell of it, once', async (t) => {
  const view: ReportView = {
    ...{ report: REPORT, machine: 'prod-dal10-web-1', state: 'done', by: 'smith', askedAt: 1, order: null },
    ...{ change: null, parts: null, problem: null, summary: SUMMARY },
    files: [{ name: 'locks.txt', what: 'locks', bytes: 4 }],
  }
  const chat = await createChatWorld(t, {
    world: {
      ports: () => ({
        reports: {
          ask: () => view,
          find: (_machine, report) => (report === REPORT ? view : undefined),
          file: (_machine, report, name) => (report === REPORT && name === 'locks.txt' ? 'free' : undefined),
        },
      }),
    },
  })
  const { slack, world } = chat
  const machine = await world.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  const plan = await chat.message('D0ANA', /Digest:/)
  slack.click('U0BO', plan, 'smith_approve')
  await chat.until('the grant', () => machine.grants.length > 0)
  await runOf(machine, 'failed')
  const trouble = await chat.message('D0ANA', /needs you/)
  const [change = ''] = /CHG\d{7}/.exec(trouble.text) ?? []
  const order = machine.grants.at(-1)?.order ?? ''
  for (const id of [order, 'cd'.repeat(16)])
    await world.driver.submit({ kind: 'smith' }, { type: 'reportKept', order: id, report: REPORT, summary: SUMMARY })
  const isReport = (text: string) => text.startsWith('Health report: ')
  await chat.until('the file', () => slack.in('C0LOG').some((one) => one.file?.title === 'prod-dal10-web-1 report.txt'))
  await chat.quiet()
  const [head, ...replies] = slack.in('C0LOG')
  const told = replies.filter((reply) => isReport(reply.text))
  t.same(
    told.map((reply) => reply.text),
    ['Health report: prod-dal10-web-1: failed at install (maintainer-script)'],
  )
  const file = replies.find((reply) => reply.file?.title === 'prod-dal10-web-1 report.txt')
  t.equal(file?.file?.content, `${SUMMARY}\n\n==================== locks.txt\nfree`)
  t.ok(replies.every((reply) => reply.thread === head?.ts))
  const facts = world.store.journal({ since: 0, limit: 10_000 }).flatMap((row) => row.facts)
  t.match(
    facts.filter((fact) => fact.fact === 'reportMade'),
    [{ change, machine: 'prod-dal10-web-1', order, reason: REPORT }],
  )
  const notes = [...world.driver.view.all('localChanges')].flatMap((row) => row.notes)
  t.equal(notes.filter((note) => note.includes('Health report of prod-dal10-web-1')).length, 1)
  t.match(notes.at(-1), /working: Health report[^]*\*\*Cause \(maintainer-script\)\*\*: <demo> & friends/)
})

t.test('[RPT-14] of a project that has ended only the feed tells, and what was closed stays as it was', async (t) => {
  const chat = await createChatWorld(t)
  const { slack, world } = chat
  const machine = await world.machine('prod-dal10-web-1')
  slack.say('U0ANA', 'D0ANA', 'smith-patch prod machines: prod-dal10-web-1 outage:0')
  const plan = await chat.message('D0ANA', /Digest:/)
  slack.click('U0BO', plan, 'smith_approve')
  await chat.until('the grant', () => machine.grants.length > 0)
  await runOf(machine, 'failed')
  const [change = ''] = /CHG\d{7}/.exec((await chat.message('D0ANA', /needs you/)).text) ?? []
  const skipped = await world.call('skip', 'ana', {
    params: { change },
    body: { machine: 'prod-dal10-web-1', reason: 'seen' },
  })
  t.equal(skipped.status, 200)
  await chat.message('D0ANA', /is `/)
  const order = machine.grants.at(-1)?.order ?? ''
  const before = world.store.list('localChanges', '')
  await world.driver.submit({ kind: 'smith' }, { type: 'reportKept', order, report: REPORT, summary: SUMMARY })
  t.same(world.store.list('localChanges', ''), before)
  const facts = world.store.journal({ since: 0, limit: 10_000 }).flatMap((row) => row.facts)
  t.match(facts.at(-1), { fact: 'reportMade', change, reason: REPORT })
})
