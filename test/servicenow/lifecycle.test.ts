/** The turns that a change's life takes beside the straight way, and records in each of their shapes. */
import t from 'tap'
import { resultOf } from '../../coordinator/change/servicenow/failures.ts'
import { rowOf, rowsOf, textOf } from '../../coordinator/change/servicenow/records.ts'
import { createSnowWorld, NAMES, type SnowWorld } from './world.ts'

const ASK = `prod machines: ${NAMES.join(' ')} outage:0`
/** What it throws; nothing when it does not. */
const thrown = (doing: () => unknown): unknown => {
  try {
    return void doing()
  } catch (error) {
    return error
  }
}
const open = (world: SnowWorld) => world.driver().view.size('remoteChanges')

t.test('[SNW-54] a model that does not move to Review by itself is moved there, and closed', async (t) => {
  for (const autoReview of [true, false]) {
    const world = await createSnowWorld()
    world.standIn.records.rules.autoReview = autoReview
    const number = await world.approved(ASK)
    for (const name of NAMES) {
      await world.agent(name).succeed()
      await world.later(5000)
    }
    await world.later(60_000)
    t.match(world.change(number), { state: '3', close_code: 'successful' }, `${autoReview}`)
    t.equal(open(world), 0)
    const moves = world.standIn.calls.filter(({ method, body }) => method === 'PATCH' && body['state'] === '0')
    t.equal(moves.length, autoReview ? 0 : 1)
  }
})

t.test('[SNW-55] a project is cancelled while its change is on hold, which is left as it is', async (t) => {
  const world = await createSnowWorld()
  const number = await world.ask(ASK)
  world.standIn.records.hold(number, true)
  await world.steer('cancel', number)
  await world.later(60_000)
  t.match(world.change(number), { state: '4', on_hold: 'true' }, 'canceled, and not taken off hold')
  t.equal(open(world), 0)
})

t.test('[SNW-56] Review can not be canceled: a change that somebody moved there is closed with its code', async (t) => {
  const world = await createSnowWorld()
  const number = await world.approved(ASK)
  await world.agent(NAMES[0]).steps('claim', 'update')
  for (const task of world.standIn.records.tasksOf(world.change(number)))
    world.standIn.records.edit(task['number'] ?? '', { state: '3', active: 'false' })
  world.standIn.records.edit(number, { state: '0' })
  await world.agent(NAMES[0]).succeed()
  await world.later(30_000)
  t.match(world.brief(number), /hold approval/)
  await world.steer('cancel', number)
  await world.later(60_000)
  t.match(world.change(number), { state: '3', close_code: 'successful_issues' })
  t.equal(open(world), 0)
})

t.test('[SNW-57] a record is understood in each of its shapes, and more or none than one is a doubt', async (t) => {
  const shapes: readonly unknown[] = [
    { state: '-5', on_hold: 'false', assignment_group: 'g1' },
    { state: { display_value: 'New', value: '-5' }, on_hold: { value: 'false' }, assignment_group: { value: 'g1' } },
    {
      state: { display_value: 'New', value: -5 },
      on_hold: { display_value: 'false', value: false },
      assignment_group: { display_value: 'Network', link: 'https://stand-in/x', value: 'g1' },
    },
    { state: -5, on_hold: false, assignment_group: { link: 'https://stand-in/x', value: 'g1' } },
  ]
  for (const shape of shapes)
    for (const result of [shape, [shape]]) {
      const row = rowOf(result, 'reading')
      t.same([textOf(row, 'state'), textOf(row, 'on_hold'), textOf(row, 'assignment_group')], ['-5', 'false', 'g1'])
      t.equal(textOf(row, 'none'), '')
    }
  for (const result of [[], [{}, {}], null, 'x', [1], undefined])
    t.match(
      thrown(() => rowOf(result, 'reading')),
      { kind: 'doubt' },
    )
  t.equal(rowsOf([{}, {}], 'reading').length, 2)
})

t.test('[SNW-58] a call that ServiceNow broke off may have been done all the same, and is looked for', async (t) => {
  const text = JSON.stringify({
    error: { message: 'Transaction cancelled: maximum execution time exceeded', detail: null },
    status: 'failure',
  })
  const headers = { 'content-type': 'application/json' }
  const failed = (status: number) => thrown(() => resultOf({ status, headers, text }, 'raising the change', 0))
  for (const status of [500, 503])
    t.match(failed(status), { kind: 'server', isAmbiguous: true, message: /maximum execution time exceeded/ })
  t.match(failed(200), { isAmbiguous: true })
})

t.test('[SNW-59] the worker that links machines is waited for, and stops nothing when it fails', async (t) => {
  for (const [states, looks] of [
    [[1, 2], 3],
    [[1, 4], 2],
  ] as const) {
    const world = await createSnowWorld()
    const { records } = world.standIn
    for (const name of NAMES) records.put('cmdb_ci_server', { name })
    world.standIn.workerStates = [...states]
    await world.request(ASK)
    await world.later(60_000)
    const [change] = records.all('change_request')
    t.match(change, { state: '-4', approval: 'requested' }, 'the approval is asked for all the same')
    t.equal(world.standIn.calls.filter(({ path }) => path.includes('/change/worker/')).length, looks)
    t.equal(records.all('task_ci').length, 2)
  }
})
