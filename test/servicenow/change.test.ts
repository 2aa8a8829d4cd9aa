/** A change at ServiceNow from request to its close: raised, approved, followed, noted and closed, as a person finds it. */
import t from 'tap'
import { renderStatus } from '../../coordinator/domain/status.ts'
import { createSnowWorld, NAMES } from './world.ts'

const ASK = `prod machines: ${NAMES.join(' ')} outage:15`

t.test('[SNW-1] a change goes from request to close with its tasks, texts, notes and codes', async (t) => {
  const world = await createSnowWorld({ lines: 'fields = { u_outage = "{outage}", category = "Software" }' })
  const { standIn } = world
  const number = await world.ask(ASK)
  const row = world.change(number)
  t.match(row, {
    state: '-4',
    approval: 'requested',
    type: 'normal',
    u_outage: '15',
    category: 'Software',
    on_hold: 'false',
  })
  t.match(row['implementation_plan'], /1\. prod-dal10-web-1[^]*hello:amd64 1\.0 -> [^]*2\. prod-dal10-web-2/)
  t.match(row['description'], new RegExp(`Digest: ${world.project(number).digest}`))
  t.equal(standIn.records.all('sys_attachment').length, 1)
  t.match(standIn.records.all('sys_attachment')[0]?.['text'], /hello:amd64/)
  const tasks = world.json(number).phases.flatMap((phase) => phase.bags.map((bag) => bag.task))
  t.strictSame(
    tasks,
    standIn.records.tasksOf(row).map((task) => task['number']),
  )
  t.match(world.brief(number), /^pending/)

  standIn.records.approve(number)
  await world.later(20_000)
  t.equal(world.json(number).approvedBy, 'Grace Hopper')
  t.equal(world.change(number)['state'], '-1')
  for (const name of NAMES) {
    await world.agent(name).succeed()
    await world.later(1000)
  }
  await world.later(5000)
  t.match(world.brief(number), /^complete/)
  t.match(world.change(number), {
    state: '3',
    close_code: 'successful',
    close_notes: '2 passed, 0 failed, 0 skipped, 0 cancelled',
  })
  for (const task of standIn.records.tasksOf(row)) t.equal(task['state'], '3', `${task['short_description']} is closed`)
  const notes = standIn.records.notesOf(tasks[0] ?? '').join('\n')
  for (const name of NAMES) t.match(notes, new RegExp(`${name}: succeeded`))
  t.equal(world.driver().view.size('outbox'), 0)
  t.equal(world.driver().view.size('remoteChanges'), 0)
})

t.test(
  '[SNW-33] the status has the link to the change and what a person must do there; a decision here is refused with the link',
  async (t) => {
    const world = await createSnowWorld()
    const number = await world.ask(ASK)
    const elsewhere = { link: 'https://stand-in/x', troubles: ['a person must\nclick'] }
    const text = renderStatus({ ...world.json(number), elsewhere }, world.driver().now())
    t.match(text.split('\n').slice(2, 4), ['CHANGE: https://stand-in/x', 'TO DO: a person must click'])
    t.notMatch(world.text(number), /CHANGE:|TO DO:/)
    const reply = await world.decide('approve', number)
    t.match(reply, {
      ok: false,
      refusals: [
        { kind: 'not-allowed', message: /nothing was approved/, remedy: /^open https:\/\/stand-in\/nav_to\.do/ },
      ],
    })
    await world.later(20_000)
    t.match(world.brief(number), /^pending/)
  },
)
