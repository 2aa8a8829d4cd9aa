/** Who may have a health report made, and who may read one. */
import t from 'tap'
import type { ReportView } from '../../protocol/report.ts'
import { createWorld } from '../api/world.ts'

const REPORT = 'ab'.repeat(16)

t.test(
  '[RPT-16] reports are asked for by those who steer or stop, read by them and bots, and by nobody else',
  async (t) => {
    const asked: string[] = []
    const view: ReportView = {
      ...{ report: REPORT, machine: 'web-1', state: 'done', by: 'ana', askedAt: 1, order: null, change: null },
      ...{ parts: null, problem: null, summary: '# web-1', files: [{ name: 'locks.txt', what: 'locks', bytes: 4 }] },
    }
    const world = await createWorld(t, {
      ports: () => ({
        reports: {
          ask: (machine, by) => {
            asked.push(`${machine.name} by ${by}`)
            return { ...view, state: 'waiting', summary: null, files: [] }
          },
          find: (_machine, report) => (report === null || report === REPORT ? view : undefined),
          file: (_machine, report, name) => (report === REPORT && name === 'locks.txt' ? 'free' : undefined),
        },
      }),
    })
    await world.machine('web-1')
    await world.person('robo', ['bot'])
    const params = { machine: 'web-1' }
    const file = { params: { machine: 'web-1', file: 'locks.txt' }, query: `?report=${REPORT}` }
    const statusOf = async (who: string) => [
      (await world.call('reportAsk', who, { params })).status,
      (await world.call('report', who, { params })).status,
      (await world.call('reportFile', who, file)).status,
    ]
    t.same(await statusOf('ana'), [202, 200, 200])
    t.same(await statusOf('bo'), [202, 200, 200])
    t.same(await statusOf('cy'), [202, 200, 200])
    t.same(await statusOf('socket'), [202, 200, 200])
    t.same(await statusOf('vi'), [403, 403, 403])
    t.same(await statusOf('robo'), [403, 200, 200])
    t.same(asked, ['web-1 by ana', 'web-1 by bo', 'web-1 by cy', 'web-1 by local-admin'])
    t.equal((await world.call('reportFile', 'ana', file)).body.text, 'free')
    for (const [name, given, status] of [
      ['reportAsk', { params: { machine: 'web-9' } }, 404],
      ['report', { params, query: `?report=${'cd'.repeat(16)}` }, 404],
      ['report', { params, query: '?report=../x' }, 400],
      ['reportFile', { ...file, params: { machine: 'web-1', file: '../../etc/shadow' } }, 404],
      ['reportFile', { ...file, query: '' }, 404],
    ] as const)
      t.equal((await world.call(name, 'ana', given)).status, status, JSON.stringify(given))
  },
)

t.test('[RPT-16] a coordinator that keeps none says so', async (t) => {
  const world = await createWorld(t)
  await world.machine('web-1')
  const asked = await world.call('reportAsk', 'ana', { params: { machine: 'web-1' } })
  t.match(asked, { status: 503, body: { refusals: [{ message: /keeps no health reports/ }] } })
})
