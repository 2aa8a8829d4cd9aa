/** `npm run demo:runbook` as a viewer has it: real coordinator, agents and apt, and Slack's own client libraries. */
import { rmSync } from 'node:fs'
import { execa } from 'execa'
import t from 'tap'
import { CHECKOUT } from '../demo/process.ts'

t.test('[BOT-51] the conversation of the runbook goes from the request to the status on real programs', async (t) => {
  const ran = await execa(process.execPath, [`${CHECKOUT}test/demo/runbook.ts`], {
    reject: false,
    stdin: 'ignore',
    all: true,
    env: { NODE_OPTIONS: '', NO_COLOR: '1' },
  })
  const dir = /Everything lies in (\S+);/.exec(ran.all)?.[1]
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true })
  t.equal(ran.exitCode, 0, ran.all.slice(-2000))
  const words = [
    /\n {2}Raising a new change request\.\n/,
    /\n {2}Change request raised: `CHG\d{7}` waiting for approval\n/,
    /Approve CHG\d{7}: http:\/\/127\.0\.0\.1:\d+\/nav_to\.do\S+\n/,
    /Grace Hopper approves CHG\d{7} in ServiceNow\n/,
    /\n {2}@ann `CHG\d{7}` needs you:\n {2}\S+ failed: .*example-cache/,
    /will be tried again/,
    /\n {2}@ann `CHG\d{7}` is `complete` after .*: pass 4\n/,
    /\n {2}Master, I'm trying to get patch status from smith instance in demo\n/,
    /\(direct\)\n {2}Project: CHG\d{7} Patch: us-south .*\n {2}TOTALS: Pass: 4, Failed NONE, Unstarted NONE\n/,
    /\nCHG\d{7} state 3 \(closed\), successful\w*: /,
  ]
  for (const pattern of words) t.match(ran.all, pattern)
})
