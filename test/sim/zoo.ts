/**
 * Bugs to plant, each of which the simulator must find. A bug is a place of a source file, or several where one
 * check stands behind another, and what stands there instead; `rule` is that by which it is found on `seed`, the first
 * seed that finds it.
 */
export type Edit = readonly [file: string, from: string, to: string]
export type Planted = { readonly rule: string; readonly seed: number; readonly edits: readonly Edit[] }

const STORE = 'coordinator/store/memory.ts'
const SQLITE = 'coordinator/store/sqlite.ts'
const ROLLOUT = 'coordinator/domain/rollout.ts'
const STOPS = 'coordinator/domain/stops.ts'
const NEWS = 'coordinator/domain/news.ts'
const ORDER = 'coordinator/domain/order.ts'
const DRIVER = 'coordinator/driver.ts'
const PACE = 'coordinator/domain/pace.ts'
const SCHEDULE = 'coordinator/domain/schedule.ts'
const CALENDAR = 'coordinator/calendar.ts'
const AGENT = 'agent/agent.ts'
const SHIPPING = 'agent/session/shipping.ts'
const DISK = 'agent/disk/disk.ts'
const GRANTS = 'agent/runner/grants.ts'
const RUN = 'agent/runner/run.ts'
const INSTALL = 'agent/runner/install.ts'
const WRAP = 'agent/runner/wrap.ts'
const REBOOT = 'agent/runner/reboot.ts'
const RECORDS = 'agent/runner/records.ts'
const SNOW = 'coordinator/change/servicenow'

const bug = (rule: string, seed: number, ...edits: readonly Edit[]): Planted => ({ rule, seed, edits })

const BUSY: Edit = [
  STOPS,
  'if (line !== undefined && line.project !== project.id) {',
  'if (line !== undefined && line.project === draft.at.toString()) {',
]
/** The driver's own look at what a turn writes. */
const UNCHECKED: Edit = [DRIVER, '    checkWrites(view, outcome.writes, ports.tools.calendar)\n', '']
const KEPT: Edit = [ORDER, 'if (target.keepsLine) touchWaiting', 'if (target === null) touchWaiting']

export const ZOO = {
  // The coordinator.
  'said before it is committed': bug('SIM-9', 1, [
    DRIVER,
    '    const row = await this.#commit(envelope, outcome)\n',
    '    this.#send(outcome.sends)\n    const row = await this.#commit(envelope, outcome)\n',
  ]),
  'a row is lost': bug('SIM-13', 1, [DRIVER, 'if (row !== null) for', 'if (row !== null && row.rev % 50 !== 49) for']),
  'records are dropped by the store': bug('SIM-9', 1, [
    STORE,
    'for (const append of turn.logs) appendLog',
    'for (const append of turn.logs) if (append.from % 7 !== 5) appendLog',
  ]),
  'a busy cluster is not looked at': bug('SIM-15', 2, BUSY),
  'a busy cluster is not looked at, nor asserted': bug(
    'SIM-15',
    2,
    BUSY,
    [
      'coordinator/domain/lines.ts',
      'held === undefined || (held.project === order.project && held.target === order.target)',
      'held === undefined || order !== null',
    ],
    UNCHECKED,
  ),
  'silence frees the line': bug(
    'SIM-4',
    6,
    [
      'coordinator/domain/clock.ts',
      "    loseOrder(\n      draft,\n      order,\n      `${order.name} ${howSilent(draft, order)}; nothing was heard of it for ${seconds} s`,\n      order.step === 'reboot' ? goneAdvice(order) : [],\n    )\n",
      "endOrder(draft, order, { state: 'failed', cause: 'unreachable', message: 'silent', evidence: [], advice: [String(seconds)], latched: false, rebootPending: false, result: null, resolvedBy: null, isDecided: true })\n",
    ],
    ['coordinator/domain/clock.ts', 'import { isActive, loseOrder }', 'import { endOrder, isActive, loseOrder }'],
  ),
  'a failure frees its cluster': bug('SIM-15', 2, KEPT),
  'a failure frees its cluster, unchecked': bug('SIM-4', 2, KEPT, UNCHECKED),
  'a failure needs no decision': bug('SIM-4', 2, [
    ORDER,
    'failed && !isDecided ? [...before.undecided, target.index].toSorted((a, b) => a - b) : before.undecided',
    'before.undecided',
  ]),
  'freeze is not looked at': bug('SIM-6', 1, [STOPS, 'if (frozen !== null) {', 'if (frozen === undefined) {']),
  'pause is not looked at': bug('SIM-6', 2, [
    STOPS,
    'if (project.paused !== null) {',
    'if (project.paused === undefined) {',
  ]),
  'a withdrawn approval counts': bug(
    'SIM-6',
    3,
    [ROLLOUT, "if (lost !== null) return { code: 'approval', reason: lost }", 'if (lost === undefined) return null'],
    [
      'coordinator/domain/changes.ts',
      '  if (project.approval === null) return\n  const without',
      '  if (lost !== null) return\n  const without',
    ],
  ),
  'the requester approves': bug('SIM-6', 1, [
    'coordinator/change/local.ts',
    'if (isSelf && !requesterMayApprove &&',
    'if (isSelf && requesterMayApprove &&',
  ]),
  'fences do not rise': bug('SIM-15', 1, [
    ROLLOUT,
    'const fence = Math.max(instance.fence, machine.fence) + 1\n',
    'const fence = Math.max(instance.fence, machine.fence) + (instance.fence % 3 === 2 ? 0 : 1)\n',
  ]),
  'fences neither rise nor are looked at': bug(
    'SIM-10',
    2,
    [
      ROLLOUT,
      'const fence = Math.max(instance.fence, machine.fence) + 1\n',
      'const fence = Math.max(instance.fence, machine.fence) + (instance.fence % 3 === 2 ? 0 : 1)\n',
    ],
    ['coordinator/store/rules.ts', 'const fence = order.fence > 0 ? [', 'const fence = order.fence < 0 ? ['],
    [GRANTS, 'if (payload.fence <= fence)', 'if (payload.fence < 0)'],
  ),
  'a stranger ends an order': bug('SIM-8', 24, [
    NEWS,
    'order !== undefined && order.machine !== machine',
    'order === null',
  ]),
  'one more record is acknowledged': bug('SIM-9', 1, [
    NEWS,
    'order: order.id, upTo: order.upTo }',
    'order: order.id, upTo: order.upTo + 1 }',
  ]),
  'a gap in the records is taken': bug('SIM-15', 141, [
    NEWS,
    'if (first === undefined || first.n !== order.upTo + 1) {',
    'if (first === undefined) {',
  ]),
  'nothing is said again at a hello': bug('SIM-14', 2, [
    NEWS,
    '    acknowledge(draft, order)\n    if (!isActive(order)) continue',
    '    if (!isActive(order)) continue',
  ]),
  'a lost grant is neither sent again nor called back': bug(
    'SIM-14',
    24,
    [
      NEWS,
      "  draft.send({ to: 'agent', machine: order.machine, grant: grantPayloadOf(project, order, target) })\n}",
      '}',
    ],
    [
      'coordinator/domain/clock.ts',
      'if (!order.claimed && !order.revoking && order.silentSince === null && draft.at > (order.startBy ?? 0))',
      'if (order.claimed === null)',
    ],
  ),
  'what has ended is live again after a restart': bug('SIM-30', 30, [
    SQLITE,
    '[write.key, write.live ? 1 : 0,',
    '[write.key, write.live ? 1 : 1,',
  ]),
  // How a project goes.
  'a soak is not waited for': bug('SIM-17', 2, UNCHECKED, [
    STOPS,
    'if (draft.at >= opensAt) return null',
    'if (draft.at >= project.soakFrom) return null',
  ]),
  'a soak counts from the first run of its phase': bug('SIM-17', 123, [
    ORDER,
    '? { soakFrom: draft.at }',
    '? { soakFrom: before.soakFrom ?? draft.at }',
  ]),
  'a phase takes one machine more': bug('SIM-17', 2, [
    PACE,
    'Math.min(machines, countOfShare(share, machines))',
    'Math.min(machines, countOfShare(share, machines) + 1)',
  ]),
  'the last machine goes first': bug('SIM-17', 2, UNCHECKED, [
    STOPS,
    'const first = targetOf(draft, project.id, project.cursor)\n',
    "const first = targetOf(draft, project.id, targetOf(draft, project.id, project.targets - 1).state === 'offered' ? project.targets - 1 : project.cursor)\n",
  ]),
  'the schedule is always open': bug('SIM-18', 9, [
    SCHEDULE,
    'const open = calendar.nextOpen(shut?.until ?? draft.at, needMs)',
    'const open = { start: shut?.until ?? draft.at, end: null, why: null }',
  ]),
  'blackouts are not looked at': bug('SIM-18', 19, [CALENDAR, 'joined(sourcesOf(schedule.blackouts))', 'joined([])']),
  'a window that has not opened is open': bug('SIM-18', 10, UNCHECKED, [
    SCHEDULE,
    'return project.runMsMax ?? settings',
    'return project.runMsMax ?? 1e-9 * settings',
  ]),
  'max-failures is not looked at': bug('SIM-19', 47, UNCHECKED, [
    STOPS,
    'return count >= (project.failuresMax ?? count + 1) ||',
    'return count >= ((project.options.maxFailures === null ? project.failuresMax : null) ?? count + 1) ||',
  ]),
  'a project goes on after a failure unasked': bug('SIM-19', 10, [
    PACE,
    "if (pace.onFailure === 'stop') return 1",
    "if (pace.onFailure === 'stop') return null",
  ]),
  'a share of failures is rounded up': bug('SIM-19', 3, [
    PACE,
    'Math.floor((value * machines)',
    'Math.ceil((value * machines)',
  ]),
  'the end of a session is not told': bug('SIM-24', 3, [
    'coordinator/sessions/session.ts',
    "    s.announced = false\n    tell(s, { type: 'sessionClosed'",
    "    s.announced = false\n    if (s.pings > 1e9) tell(s, { type: 'sessionClosed'",
  ]),
  // ServiceNow.
  'a hold of the change is not looked at': bug('SIM-40', 46, [
    ROLLOUT,
    'if (permission.onHold) return',
    'if (permission.change === null) return',
  ]),
  'the window of the change is not looked at': bug('SIM-40', 15, [
    ROLLOUT,
    '  return shut === null\n    ? null\n',
    '  return shut !== draft\n    ? null\n',
  ]),
  'a permission is kept for the next grants': bug('SIM-40', 4, [
    `${SNOW}/provider.ts`,
    '    const permission = await readPermission(desk, change, timeoutMs)\n',
    "    const kept = desk.approvers.get(`kept ${project}`) as unknown as Awaited<ReturnType<typeof readPermission>>\n    const permission = kept === undefined ? await readPermission(desk, change, timeoutMs) : { ...kept, readAt: desk.now() }\n    if (permission.approval === 'approved') desk.approvers.set(`kept ${project}`, permission as never)\n",
  ]),
  'another record is taken for the change': bug(
    'SIM-40',
    62,
    [
      `${SNOW}/desk.ts`,
      "  if (textOf(row, 'sys_id') === sysId) return row\n",
      "  if (textOf(row, 'sys_id') === sysId || timeoutMs !== undefined) return row\n",
    ],
    [
      `${SNOW}/records.ts`,
      "if (textOf(row, 'sys_id') !== change.sysId || textOf(row, 'number') !== number)",
      "if (textOf(row, 'sys_id') === '')",
    ],
    [
      `${SNOW}/records.ts`,
      "if (textOf(row, 'correlation_id') !== correlationOf(settings, change.project))",
      'if (row === null)',
    ],
    [`${SNOW}/records.ts`, "mark.startsWith(DIGEST_MARK) ? mark.slice(DIGEST_MARK.length) : ''", 'change.digest'],
  ),
  'a change that was withdrawn permits': bug('SIM-40', 62, [
    `${SNOW}/records.ts`,
    "if (approval === 'approved' || !settings.approvalRequired)",
    "if (approval !== 'rejected')",
  ]),
  'who approves anew after a revert is not looked at': bug('SIM-40', 49, [
    `${SNOW}/permission.ts`,
    "if (version !== '' && known?.version === version)",
    'if (known?.who.users.some((user) => user !== change.requester) === true)',
  ]),
  'that approvers can not be read is no doubt': bug('SIM-40', 62, [
    `${SNOW}/permission.ts`,
    "const who = await deciders(desk, change, 'approved', timeoutMs)",
    "const who = await deciders(desk, change, 'approved', timeoutMs).catch(() => ({ by: '', reason: null, users: [] }))",
  ]),
  'a change is made without waiting for what may still come': bug('SIM-41', 45, [
    `${SNOW}/desk.ts`,
    'if (!(error instanceof ServiceNowError) || !error.isAmbiguous) throw error',
    'if (error !== null) throw error',
  ]),
  'a change is made without looking for it': bug('SIM-41', 4, [
    `${SNOW}/raise.ts`,
    'const known = await findChange(desk, correlation)',
    'const known = tried.isFirst ? await findChange(desk, correlation) : null',
  ]),
  'nothing is waited for after a restart': bug('SIM-41', 61, [
    `${SNOW}/desk.ts`,
    'if (tried.isFirst || waitMs <= 0) return',
    'if (waitMs !== null) return',
  ]),
  'a note is written again': bug('SIM-41', 16, [
    `${SNOW}/task.ts`,
    'const isTold = !tried.isFirst && (await hasNote(desk, task, key))',
    'const isTold = tried.isFirst && (await hasNote(desk, task, key))',
  ]),
  'a call leaves the outbox before it is made': bug('SIM-42', 68, [
    'coordinator/change/sender.ts',
    '      this.#again(lane, row, error)\n      return\n',
    "      if (row.call.call !== 'task') {\n        this.#again(lane, row, error)\n        return\n      }\n      delivered = { what: 'done' }\n",
  ]),
  'the outbox is not taken up after a restart': bug('SIM-42', 7, [
    'coordinator/change/sender.ts',
    "for (const change of ports.view.all('remoteChanges')) lanes.wake(change.project)",
    "for (const change of ports.view.all('remoteChanges')) lanes.problem(change.project)",
  ]),
  // The agent.
  'shipping never begins again': bug(
    'SIM-14',
    3,
    [SHIPPING, 'for (const tail of s.tails.values()) restart(tail)', ''],
    [SHIPPING, 'now - tail.movedAt >= RESEND_MS) rewind(s, tail)', 'now < 0) rewind(s, tail)'],
    [SHIPPING, 's.ports.clock.monotonicNow() - tail.movedAt >= REWIND_MS', 's.ports.clock.monotonicNow() < 0'],
  ),
  'a tail waits for an acknowledgement that nobody owes': bug(
    'SIM-14',
    21,
    [SHIPPING, '      tail.waits = false\n    },', '    },'],
    // As when its disk can't be read at the hello.
    [
      SHIPPING,
      'if (evidence === null) return undefined',
      'if (evidence === null || tail.known.line === 0) return undefined',
    ],
  ),
  'the name of the records is not made safe': bug(
    'SIM-9',
    1,
    [SHIPPING, 'if (tail.synced === 0) disk.fsync(dirname(tail.path))', ''],
    [DISK, '  if (isNew) disk.fsync(dirname(path))\n', ''],
  ),
  'records are sent before they are synced': bug(
    'SIM-9',
    1,
    [SHIPPING, '    disk.fsync(tail.path)\n', ''],
    [
      DISK,
      "  disk.write(path, bytesOf(bytes), 'append', mode)\n  disk.fsync(path)\n",
      "  disk.write(path, bytesOf(bytes), 'append', mode)\n",
    ],
  ),
  'a grant is answered before it is kept': bug('SIM-9', 1, [
    AGENT,
    '  const dropped = dropGrant(disk, layout, identity.machine, frame)\n',
    "  s.connection.send({ t: 'granted', order: frame.order, fence: 1 })\n  const dropped = dropGrant(disk, layout, identity.machine, frame)\n",
  ]),
  'a folder is not synced after a rename': bug('SIM-9', 1, [
    DISK,
    '  disk.rename(temporary, path)\n  disk.fsync(dirname(path))',
    '  disk.rename(temporary, path)',
  ]),
  'a file is not synced before its rename': bug('SIM-15', 2, [
    DISK,
    '  disk.fsync(temporary)\n  disk.rename(temporary, path)',
    '  disk.rename(temporary, path)',
  ]),
  'a folder is not synced after a link': bug('SIM-12', 2, [
    DISK,
    '  disk.unlink(temporary)\n  disk.fsync(dirname(path))',
    '  disk.unlink(temporary)',
  ]),
  'a file is not synced before its link': bug('SIM-15', 1, [
    DISK,
    '  disk.fsync(temporary)\n  let created',
    '  let created',
  ]),
  'what the disk did not take is forgotten': bug('SIM-14', 130, [
    AGENT,
    'if (isKept === true || s.askAgain !== null) return',
    'if (s.stopped || isKept !== null) return',
  ]),
  'a proof counter is used again': bug('SIM-15', 1, [
    'agent/session/connection.ts',
    'const counter = Number(text) + 1\n',
    'const counter = Math.max(1, Number(text) + 1 - (Number(text) % 5 === 4 ? 1 : 0))\n',
  ]),
  // The runner.
  'a signature is not looked at': bug('SIM-23', 21, [
    GRANTS,
    'if (!isSigned(key, bytes, grant.signature))',
    'if (key === null)',
  ]),
  'the plan with a grant is not compared': bug('SIM-23', 5, [
    GRANTS,
    "if (createHash('sha256').update(planText(grant.plan)).digest('hex') !== payload.planHash)",
    'if (grant === null)',
  ]),
  'any key will do': bug(
    'SIM-23',
    21,
    [GRANTS, 'keys.keys.find((one) => one.keyId === grant.keyId)', 'keys.keys[0]'],
    [GRANTS, 'if (!isSigned(key, bytes, grant.signature))', "if (grant.signature === '')"],
  ),
  'a grant is claimed too late': bug('SIM-6', 6, [GRANTS, 'if (facts.now > payload.startBy)', 'if (facts.now < 0)']),
  'apt before the latch': bug('SIM-12', 1, [
    WRAP,
    "  if (!takeLatch(disk, files, { by: 'wrapper', at: startedAt, try: command.try })) return done(LATCHED_ALREADY)\n",
    '',
  ]),
  'a run under way is called failed after a restart': bug('SIM-12', 2, [
    RUN,
    "if (latch?.by === 'wrapper') return resumeInstall(run)\n",
    "if (latch?.by === 'wrapper') {\n    endOrder(order, failedFor('latch', 'internal', 'restarted', [], []), false)\n    return done()\n  }\n",
  ]),
  'lines are cut again after a restart': bug('SIM-8', 1, [
    RECORDS,
    "    if (record.type === 'line') state.offset = record.offset + bytesOf(record).length\n",
    '',
  ]),
  'a partial line is forgotten': bug('SIM-8', 1, [
    RECORDS,
    '    state.offset += used\n',
    '    state.offset += used + 1\n',
  ]),
  'torn records stay': bug('SIM-15', 14, [RECORDS, 'if (whole < bytes.length) {', 'if (whole < 0) {']),
  'neither apt nor dpkg is waited for': bug(
    'SIM-5',
    9,
    [INSTALL, "argv: ['flock', order.files.lock, 'true'],", "argv: ['flock', '/none', 'true'],"],
    [INSTALL, 'if (holder !== null) {', 'if (holder === undefined) {'],
  ),
  'a lost dpkg is not waited for': bug('SIM-5', 12, [INSTALL, 'if (holder !== null) {', 'if (holder === undefined) {']),
  'a killed apt has taken dpkg with it': bug('SIM-5', 12, [
    INSTALL,
    'const holder = exit === null || exit.signal !== null ?',
    'const holder = exit === null ?',
  ]),
  "apt's word is believed": bug('SIM-12', 3, [
    INSTALL,
    'const wrong = unclean ?? comparison(order, order.approved)',
    'const wrong = unclean',
  ]),
  'drift is not looked at': bug('SIM-7', 2, [RUN, '  if (lines.length > 0) {\n', '  if (lines.length > 1e9) {\n']),
  'a reboot that nobody asked for': bug('SIM-11', 2, [
    REBOOT,
    'return order.payload.outageMinutes > 0 && rebootObjection',
    'return rebootObjection',
  ]),
  'a reboot before it is told': bug('SIM-11', 1, [
    REBOOT,
    'if (ackedUpTo(order) >= wanted) return',
    'if (wanted > 0) return',
  ]),
  'the reboot of a run is not marked': bug('SIM-11', 1, [
    REBOOT,
    'if (machine.bootId !== reboot.bootId) return verify(run, reboot)\n',
    '',
  ]),
  'an apt that dies with the runner': bug('SIM-11', 102, [
    INSTALL,
    '      timeLimitMs: null,\n      diesWithUs: false,',
    '      timeLimitMs: 60_000,\n      diesWithUs: false,',
  ]),
} as const satisfies Record<string, Planted>
export type BugName = keyof typeof ZOO
