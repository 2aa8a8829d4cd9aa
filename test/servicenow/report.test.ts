/** The health report of a machine on its change task: a note, and the summary as a file, once. */
import t from 'tap'
import { createSnowWorld, NAMES } from './world.ts'

const REPORT = 'ab'.repeat(16)
const SUMMARY = `# ${NAMES[0]}: failed at install (lock)\n\n**Cause (lock)**: held\n${'x'.repeat(20_000)}\n`

for (const takesFiles of [true, false])
  t.test(
    `[RPT-14] noted on the task and attached to it${takesFiles ? '' : ', where the site takes files'}`,
    async (t) => {
      const world = await createSnowWorld()
      const { standIn } = world
      const number = await world.approved(`prod machines: ${NAMES[0]} outage:0`)
      await world.agent(NAMES[0]).fail()
      await world.later(5000)
      const before = standIn.records.all('sys_attachment').length
      if (!takesFiles)
        standIn.fault = (call) =>
          call.path.endsWith('/attachment/file') ? { status: 403, message: 'no', detail: null } : undefined
      const order = world.json(number).phases[0]?.bags[0]?.machines[0]?.order ?? ''
      await world.driver().submit({ kind: 'smith' }, { type: 'reportKept', order, report: REPORT, summary: SUMMARY })
      await world.later(60_000)
      const [task = ''] = world.json(number).phases.flatMap((phase) => phase.bags.map((bag) => bag.task ?? ''))
      const notes = standIn.records.notesOf(task).filter((note) => note.includes('Health report'))
      t.equal(notes.length, 1)
      t.match(notes[0], /smith report prod-dal10-web-1\)\n# prod-dal10-web-1: failed at install \(lock\)/)
      const files = standIn.records.all('sys_attachment').slice(before)
      t.equal(files.length, takesFiles ? 1 : 0)
      if (takesFiles)
        t.match(files[0], {
          table_name: 'change_task',
          file_name: /^smith-report-prod-dal10-web-1-abababab\.txt$/,
          text: SUMMARY,
        })
      t.equal(world.driver().view.size('outbox'), 0, 'nothing waits')
      t.match(world.brief(number), /^held/)
    },
  )
