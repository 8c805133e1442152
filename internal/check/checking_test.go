// checking_test.go owns the values that this package's tests share.

package check

const (
	ourServerName   = "transport02.smartmesh.cn"
	ourASToken      = "LODE52N2CKVXMOURUMAWLEEEXMWB4DKIKRI246XD"
	ourHSToken      = "RNI4CGEDTKC4WJTB4RZWRK4NOKA7M4PREUW6F2GZ"
	ourSecret       = "rather_secret~with^symbols"
	ourClientID     = "01J44RKQYM4G3TNVANTMTDYTX6"
	ourClientSecret = "a_client_secret~without^digits"
)
