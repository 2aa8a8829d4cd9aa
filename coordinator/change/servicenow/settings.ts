/** What the configuration says about a site's ServiceNow (`[change.servicenow]`), as the rest of this folder reads it. */

/** The states of a change that smith knows, by the names of the stock model. */
export const CHANGE_STATES = [
  'new',
  'assess',
  'authorize',
  'scheduled',
  'implement',
  'review',
  'closed',
  'canceled',
] as const
export type ChangeState = (typeof CHANGE_STATES)[number]
export const TASK_STATES = ['pending', 'open', 'in_progress', 'closed', 'canceled'] as const
export type TaskState = (typeof TASK_STATES)[number]
export type CloseCode = 'successful' | 'successful_issues' | 'unsuccessful'

export type ServiceNowSettings = {
  /** Without a slash at its end. */
  readonly url: string
  readonly auth:
    | { readonly kind: 'oauth'; readonly clientId: string; readonly secretFile: string; readonly scope: string }
    | { readonly kind: 'basic'; readonly user: string; readonly secretFile: string }
  /** The sys_id of the group whose members approve. */
  readonly assignmentGroup: string
  /** The sys_id of a change model or of a standard change's template; '' for a normal change. */
  readonly model: string
  readonly template: string
  /** More columns of a change or task; the values may have placeholders. */
  readonly fields: Readonly<Record<string, string>>
  readonly taskFields: Readonly<Record<string, string>>
  readonly states: Readonly<Record<ChangeState, string>>
  readonly taskStates: Readonly<Record<TaskState, string>>
  readonly closeCodes: Readonly<Record<CloseCode, string>>
  /** Whether a change must also bear `approval = approved`. */
  readonly approvalRequired: boolean
  /** Whether smith asks for the approval itself. */
  readonly requestApproval: boolean
  /** Tasks of the site's own flow, by short description, that smith closes with the change. */
  readonly flowTasks: readonly string[]
  readonly correlationPrefix: string
  /** Where machines stand as configuration items, and requesters as users; '' for nowhere. */
  readonly ciTable: string
  readonly requesterField: string
  readonly attachment: boolean
  /** The planned length of a change whose request names no window. */
  readonly plannedMs: number
  readonly timeoutMs: number
  /** How long after a request whose answer was lost its effect may still come. */
  readonly settleMs: number
  readonly retryMsMin: number
  readonly retryMsMax: number
  /** How often it is looked whether a person has done what only a person may. */
  readonly pollMs: number
}

/** The page on which a person sees a change. */
export function linkOf(settings: Pick<ServiceNowSettings, 'url'>, sysId: string): string {
  return `${settings.url}/nav_to.do?uri=${encodeURIComponent(`change_request.do?sys_id=${sysId}`)}`
}
